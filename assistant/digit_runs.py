"""Digits in text: runs of groups with separators between, and the windows of a run that may be one number."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

MOST_DIGITS = 19
"""No number that is looked for is longer."""
UNIT = (
    r"(?:(?i:usd|eur|gbp|cny|rmb|hkd|jpy|dollars?|euros?|pounds?|yuan|bucks?|cents?|percent|times|am|pm|points?|"
    r"(?:business |working |calendar )?(?:second|minute|hour|day|week|month|year)s?|items?|orders?|pieces?|people)\b"
    r"|[%°$€£¥元块圆刀折点分天日年月周个位次张笔件份人倍秒万千百]|美[元金]|欧元|英镑|港[元币]|人民币|小时|工作日)"
)
"""What makes the number before it an amount."""

_GAP = r"(?:[^\w<>$€£¥%@&]|_){0,4}+"
"""Between the groups of a number: never across a placeholder such as <CARD_1>, nor into an amount of money."""
_RUN = re.compile(rf"[0-9](?:{_GAP}[0-9])*+(?:[-._·/]?[xX]|{_GAP}[xX](?![A-Za-z0-9]))?")
_GROUP = re.compile(r"[0-9]+[xX]?|[xX]")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_#-]*$")
_WORD = re.compile(r"[A-Za-z]+")
_NOT_OF_ORDERS = set(
    "card cards visa mc mastercard amex jcb unionpay discover diners maestro pan cc no nr num number is my the to and "
    "acct account tel phone mobile mob cell id call fax whatsapp wechat qq sms".split()
)
_OF_ORDERS = set("order ord txn tx ref trx inv invoice tracking sn".split())
_HYPHENATED = re.compile(r"[0-9]{2}[-_]$")
_DATE_LED = re.compile(r"(?<![0-9])20[0-9]{2}(?:[0-9]{4}|-?[0-9]{2}-?[0-9]{2})?[-_]$")


class Found(NamedTuple):
    """Personal data at a place in a text."""

    kind: str
    value: str
    """The same however it was typed: a number without separators, an address in lower case."""
    start: int
    end: int


class Window(NamedTuple):
    """Successive groups of a run that may be one number."""

    groups: Sequence[tuple[int, int]]
    """Of the whole run: the place of each in the text."""
    first: int
    last: int
    end: int
    digits: str
    """Its digits only; X may be the last."""

    @property
    def start(self) -> int:
        return self.groups[self.first][0]

    def sizes(self) -> tuple[int, ...]:
        """The lengths of its groups."""
        sizes = [end - start for start, end in self.groups[self.first : self.last + 1]]
        return (*sizes[:-1], self.end - self.groups[self.last][0])

    def gaps(self, text: str) -> list[str]:
        """What is between its groups."""
        return [text[end:start] for (_, end), (start, _) in pairwise(self.groups[self.first : self.last + 1])]

    def before(self, text: str) -> str:
        """The 40 characters before it."""
        return text[max(0, self.start - 40) : self.start]


def runs(text: str, least: int) -> Iterator[list[tuple[int, int]]]:
    """The places of the groups of each run of at least `least` digits."""
    for run in _RUN.finditer(text):
        if run.end() - run.start() >= least:
            groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
            if sum(end - start for start, end in groups) >= least:
                yield groups


def windows(text: str, groups: Sequence[tuple[int, int]], first: int, least: int = 1) -> Iterator[Window]:
    """The windows of at least `least` digits that start at group `first`, the shortest first."""
    digits = ""
    for last in range(first, len(groups)):
        start, end = groups[last]
        if len(digits) + end - start > MOST_DIGITS:
            return
        group = text[start:end]
        # An X is the check digit of an identity number, or of the word after it.
        if group[-1] in "xX" and len(group) > 1 and len(digits) + len(group) > least:
            yield Window(groups, first, last, end - 1, digits + group[:-1])
        digits += group.upper()
        if len(digits) >= least:
            yield Window(groups, first, last, end, digits)


def is_of_an_order(before: str) -> bool:
    """Whether the digits after `before` are part of a lettered reference such as TX2026 or ORD-12."""
    token = _TOKEN.search(before)
    words = _WORD.findall(token[0]) if token else []
    if any(word.lower() in _NOT_OF_ORDERS for word in words):
        return False
    return any((len(word) > 1 and word.isupper()) or word.lower() in _OF_ORDERS for word in words)


def is_cut(text: str, window: Window) -> bool:
    """Whether the window leaves out the start of a reference with hyphens: 405-3098765-2987654, 20261124-1234567."""
    before = window.before(text)
    if window.first == window.last:
        return bool(_DATE_LED.search(before))
    return bool(_HYPHENATED.search(before)) and window.sizes() != (4, 4, 4, 4)
