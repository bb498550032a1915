"""Card, identity and phone numbers in text, whole and split over messages.

All text here is undisguised: see assistant/disguises.py. What is looked for is whole groups of digits, so a card is
found beside a year, and none is found inside an order number of 28 digits.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from assistant.card_numbers import (
    LEAST_DIGITS,
    is_card,
    is_card_number,
    is_doubtful,
    is_identity,
    is_identity_number,
)
from assistant.digit_runs import MOST_DIGITS, UNIT, Found, Window, is_cut, is_of_an_order, runs, windows
from assistant.phone_numbers import CN_MOBILE, DIGITS, PLUS, find_phone, is_valid_abroad

_OPAQUE = re.compile(
    r"[0-9A-Fa-f](?<![0-9A-Za-z].)(?:[0-9A-Fa-f]{7}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
    r"|(?:(?<=[A-Fa-f])|(?=[0-9]*+[A-Fa-f]))[0-9A-Fa-f]{23,}+)(?![0-9A-Za-z])"
)
"""UUIDs and hashes, in which any digits may stand in a row."""
_DIALLED, _IDENTITY, _SURE, _LIKELY, _DOUBTFUL = range(5)
"""Ranks: a valid +number, an identity number, a card, a phone number, a card that cuts into a date or an amount."""
_REACH = 2
"""A number goes on in the next message, or in the one after: someone may have answered in between."""
_LITTLE = 20
"""Characters beside a number in a message that is little else."""
_SPREAD = 5
"""Characters for each digit of a number, with the gap before it."""
_NO_END = re.compile(rf" ?{UNIT}|[.:/]\d")
_DIGIT = re.compile(r"[0-9]")
_WORD = re.compile(r"\w")


class _Candidate(NamedTuple):
    rank: int
    kind: str
    value: str
    window: Window


def find_numbers(text: str) -> list[Found]:
    """The card, identity and phone numbers in `text`, in order; they do not overlap."""
    found: list[Found] = []
    long = [*runs(text, DIGITS.start)]
    if long and _OPAQUE.search(text):
        return find_numbers(_OPAQUE.sub(lambda match: "<" * len(match[0]), text))
    for groups in long:
        free = [True] * len(groups)
        for rank, kind, value, window in sorted(_candidates(text, groups), key=_first_the_surest):
            span = range(window.first, window.last + 1)
            left = [group for group in span if free[group]]
            # Where two cards overlap one of them is chance, and nobody knows which: both go.
            if not left or (len(left) < len(span) and rank > _SURE):
                continue
            for taken in [left] if len(left) == len(span) else _stretches(left):
                start, end = groups[taken[0]][0], min(groups[taken[-1]][1], window.end)
                if kind == "PHONE":
                    start -= _dialling(text[max(0, start - 4) : start], text[start:end])
                found.append(Found(kind, value, start, end))
                free[taken[0] : taken[-1] + 1] = [False] * len(taken)
    return sorted(found, key=lambda it: it.start)


def _candidates(text: str, groups: Sequence[tuple[int, int]]) -> Iterator[_Candidate]:
    """What may be a number in a run.

    A phone number that starts inside a surer number would lose to it, so none is looked for there: that is slow.
    """
    left = sum(end - start for start, end in groups)
    sure = -1  # the last group of a sure number
    for first, (start, end) in enumerate(groups):
        has_plus = PLUS.search(text, max(0, start - 4), start) is not None
        least = DIGITS.start if has_plus or first > sure else LEAST_DIGITS
        some = [*windows(text, groups, first, least)] if left >= least else []
        left -= end - start
        for window in some:
            if len(window.digits) < LEAST_DIGITS:
                continue
            if is_identity(text, window):
                sure = max(sure, window.last)
                yield _Candidate(_IDENTITY, "ID", window.digits, window)
            elif is_card(text, window):
                rank = _DOUBTFUL if is_doubtful(text, window) else _SURE
                sure = max(sure, window.last) if rank == _SURE else sure
                yield _Candidate(rank, "CARD", window.digits, window)
        phones = [it for it in some if len(it.digits) in DIGITS] if has_plus or first > sure else []
        phone = find_phone(text, phones) if phones else None
        if phone:
            sure = max(sure, phone.window.last) if phone.is_valid else sure
            yield _Candidate(_DIALLED if phone.is_valid else _LIKELY, "PHONE", phone.e164, phone.window)


def _stretches(groups: Sequence[int]) -> list[list[int]]:
    """`groups`, in order, where some may be missing between them, as lists in which none is."""
    return [[group for _, group in it] for _, it in groupby(enumerate(groups), lambda pair: pair[1] - pair[0])]


def _first_the_surest(candidate: _Candidate) -> tuple[int, int, int]:
    window = candidate.window
    return candidate.rank, window.first - window.last, window.first


def _dialling(before: str, number: str) -> int:
    """How many characters before the first digit belong to a phone number: a plus, a bracket that is closed in it."""
    plus = PLUS.search(before)
    return len(plus[0]) if plus else int(before.endswith("(") and ")" in number)


class _Piece(NamedTuple):
    """A part of a number that may go on in another message."""

    message: int
    window: Window
    is_alone: bool
    """No other digits are in the message."""


_Runs = Sequence[Sequence[Sequence[tuple[int, int]]]]
"""The groups of digits of each run in each message."""


def find_split(texts: Sequence[str], found: Sequence[Sequence[Found]]) -> list[tuple[int, Found]]:
    """The parts of numbers that begin at the end of one message and go on in the digits that the next one starts with.

    `found` has what is found in each of `texts` already. Returns each part with its message's position; what is found
    already and overlaps a part belongs to it.
    """
    may_open = [_may_open(text) for text in texts]
    if not any(may_open[1:]):
        return []
    free = [
        _free_runs(text, found[message]) if any(may_open[message : message + 1 + _REACH]) else []
        for message, text in enumerate(texts)
    ]
    parts: list[tuple[int, Found]] = []
    used: set[int] = set()
    for message, mine in enumerate(free):
        if not mine or message in used or not any(free[message + 1 : message + 1 + _REACH]):
            continue
        within = [range(it.start + 1, it.end) for it in found[message] if it.kind == "CARD"]
        groups = mine[-1]
        for first in range(max(0, len(groups) - MOST_DIGITS), len(groups)):
            *_, window = [None, *windows(texts[message], groups, first)]
            if window is None or window.last < len(groups) - 1 or len(window.digits) < 3:
                continue
            if any(window.start in card for card in within):
                continue
            if pieces := _continued(texts, free, [_Piece(message, window, len(mine) == 1)]):
                kind, number = _kind(texts, pieces), "".join(piece.window.digits for piece in pieces)
                parts += [(it.message, Found(kind, number, it.window.start, it.window.end)) for it in pieces]
                used |= {piece.message for piece in pieces}
                break
    return parts


def _free_runs(text: str, found: Sequence[Found]) -> list[list[tuple[int, int]]]:
    """The runs of digits that are not part of what is found; a phone number or a short card may be part of a card."""
    sure = [it for it in found if it.kind not in ("PHONE", "CARD") or text[it.start] == "+" or len(it.value) > 15]
    covered = [range(it.start, it.end) for it in sure]
    free = [[group for group in run if not any(group[0] in span for span in covered)] for run in runs(text, 1)]
    return [run for run in free if run]


def _continued(texts: Sequence[str], free: _Runs, pieces: list[_Piece]) -> list[_Piece] | None:
    """`pieces` and those after them that make up a whole number."""
    message = pieces[-1].message
    length = sum(len(piece.window.digits) for piece in pieces)
    for following in range(message + 1, min(message + 1 + _REACH, len(free))):
        if not free[following]:
            continue
        text, groups = texts[following], free[following][0]
        for window in reversed([*windows(text, groups, 0)]):
            size = len(window.digits)
            if length + size > MOST_DIGITS or (size < 2 and length < 11) or _NO_END.match(text, window.end):
                continue
            piece = _Piece(following, window, len(free[following]) == 1 and window.last == len(groups) - 1)
            if not _opens(text, window):
                continue
            # A longer number first: the start of a card may pass its check by chance.
            if piece.is_alone and (whole := _continued(texts, free, [*pieces, piece])):
                return whole
            if _kind(texts, [*pieces, piece]):
                return [*pieces, piece]
    return None


def _may_open(text: str) -> bool:
    """A fast test whether any window in it may open it: long messages that start with a word fail it."""
    word = _WORD.search(text)
    if word and _DIGIT.match(text, word.start()):
        return True
    digits = len(_DIGIT.findall(text)) if len(text) <= _LITTLE + _SPREAD * MOST_DIGITS else 0
    return digits > 0 and len(text) <= _LITTLE + _SPREAD * (digits + 1)  # one more may be an X


def _opens(text: str, window: Window) -> bool:
    """Whether the window starts its message, or little else is there."""
    return not _WORD.search(text, 0, window.start) or len(text) - (window.end - window.start) <= _LITTLE


def _kind(texts: Sequence[str], pieces: Sequence[_Piece]) -> str:
    """The kind of number that the pieces make up; empty if none."""
    text, first = texts[pieces[0].message], pieces[0].window
    digits = "".join(piece.window.digits for piece in pieces)
    if is_identity_number(digits):
        return "ID"
    if not digits.isdigit() or is_cut(text, first) or is_of_an_order(first.before(text)):
        return ""
    if len(first.digits) >= 4 and is_card_number(digits):
        return "CARD"
    if PLUS.search(first.before(text)) and is_valid_abroad(digits):
        return "PHONE"
    if not CN_MOBILE.fullmatch(digits) or _WORD.search(text, first.end):
        return ""
    sizes = [size for piece in pieces for size in piece.window.sizes()]
    sizes[0] -= len(digits) - 11  # the country code, with or without a separator
    return "PHONE" if [size for size in sizes if size] in ([3, 4, 4], [3, 8], [7, 4]) else ""
