"""Personal data out of text, before anything is written, embedded, trained on or sent to a model.

What is looked for: cards and their security codes, Chinese identity numbers, phone numbers, e-mail addresses, IBANs
and, in what customers and agents write, names. However it is typed: with separators, in full-width or other digits,
in Chinese numerals, with invisible characters, and split over messages.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stdnum import iban

from assistant.digit_runs import UNIT, Found
from assistant.disguises import NUMERAL_VALUES, Plain, undisguise
from assistant.personal_names import asks_for_a_name, find_known, find_names, is_full
from assistant.personal_numbers import find_numbers, find_split

_AT = re.compile(" @ |@")
_EMAIL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+%'-]*$")
_EMAIL_DOMAIN = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]|[A-Za-z0-9-]+。(?:com|cn|net|org)\b")
_IBAN = re.compile(
    r"[0-9](?<=[A-Za-z]{2}[0-9])[0-9](?<![A-Za-z0-9].{4})(?:[ \-./·]{0,2}[A-Za-z0-9]){11,30}+", re.DOTALL
)
_DIGIT = re.compile(r"[0-9]")
_NUMERAL = re.compile(r"[〇零一二三四五六七八九]{3}")
_GROUP = re.compile(r"[A-Za-z0-9]+")
_BETWEEN = re.compile(r"[^A-Za-z0-9]+")
_CODE = r"([0-9〇零一二三四五六七八九]{3,4})(?![0-9A-Za-z]|[.:][0-9]|,[0-9]{3}(?![0-9]))"
_ANNOUNCED = re.compile(
    r"(?:[cC][vV](?i:[vn]2?|c2?)|[sS](?i:ecurity code)|"
    r"安全码|校验码|验证码后三位|(?:背面|卡背)的?(?:后|末)?三位(?:数字?)?|后三位)"
    r"(?i:[\s:=,.(#*\"'-]|code|number|no\b|is\b|was\b|of\b|the\b|my\b|on\b|back\b|card\b|for\b|it's|码|号|是|为){0,8}"
    rf"{_CODE}(?! ?{UNIT})"
)
_ANNOUNCING = ("cv", "ecur", "码", "位")
"""What stands in every text that announces a code, in lower case."""
_BREAK = r"[\s,;、/|.:-]{1,6}"
_EXPIRY = (
    r"(?:(?i:exp(?:iry|ires|iration)?(?: date)?|valid (?:thru|until)|有效期[至到]?|到期日?)[\s:.]{0,3})?"
    r"(?:0?[1-9]|1[0-2])[\s/|.-]?(?:20)?[0-9]{2}"
)
_BARE = re.compile(rf"(?:{_BREAK}{_EXPIRY})?{_BREAK}{_CODE}(?! ?{UNIT})")
_BARE_REPLY = re.compile(rf"\W*(?:{_EXPIRY}{_BREAK})?{_CODE}\W*$")
_ASKS_FOR_CODE = re.compile(r"(?i)\bcv[vcn]|security code|安全码|校验码|三位")

_PRIVATE_FIELD = re.compile(
    r"(?i)cv[vcn]\d?$|security_?code|password|passcode|^pin$|holder|^((full|first|last|user|customer|display|account"
    r"|payee|payer|beneficiary|recipient)_?)?name$|^(payee|payer|beneficiary|recipient)$|姓名|户名|收款人|密码"
)
"""Names of fields whose values are personal whatever they look like."""


class Redactor:
    """Replaces personal data by placeholders such as `<CARD_1>`.

    The same value gets the same placeholder from one redactor, so use one for a conversation. Without `names`, names
    of people stay: articles name whom they mean to.
    """

    def __init__(self, names: bool = True) -> None:
        self._names = names
        self._placeholders: dict[tuple[str, str], str] = {}
        self._values: dict[str, int] = {}
        self._full_names: list[str] = []
        self.counts: dict[str, int] = {}
        """Replacements made, by kind."""

    def __call__(self, text: str) -> str:
        return self.conversation([text])[0]

    def conversation(self, texts: Sequence[str]) -> list[str]:
        """`texts`, the messages of a conversation in their order, without personal data.

        Only so are numbers found that go on in a later message, and what a message means after the one before it: the
        bare name after "Your name, please?", the bare 123 after a card number.
        """
        plains = [undisguise(text) for text in texts]
        messages = [plain.text for plain in plains]
        found = [_find(text) for text in messages]
        with_digits = sum(bool(_DIGIT.search(text)) for text in messages)
        if with_digits > 1:
            for message, part in find_split(messages, found):
                found[message] = [*_clear_of([part], found[message]), part]
        if with_digits:
            for text, taken in zip(messages, found, strict=True):
                taken += _codes_after_cards(text, taken)
            for message, code in _codes_given_alone(messages, found):
                found[message].append(code)
        if self._names:
            self._find_names(plains, found)
        return [self._without(*each) for each in zip(texts, plains, found, strict=True)]

    def learn_names(self, text: str) -> None:
        """Have the full names in `text` go from what follows, wherever they stand there."""
        self._find_names([undisguise(text)], [[]])

    def _find_names(self, plains: Sequence[Plain], found: Sequence[list[Found]]) -> None:
        asked = False
        for plain, taken in zip(plains, found, strict=True):
            names = find_names(plain.text, asked)
            if names:
                taken += _clear_of(taken, names)
                new = dict.fromkeys(it.value for it in names if is_full(it.value))
                self._full_names += [name for name in new if name not in self._full_names]
            asked = asks_for_a_name(plain.text)
        if self._full_names:
            for plain, taken in zip(plains, found, strict=True):
                taken += _clear_of(taken, find_known(plain.text, self._full_names))

    def _without(self, text: str, plain: Plain, found: Sequence[Found]) -> str:
        if not found:
            return text
        parts, end = [], 0
        for it in sorted(found, key=lambda it: it.start):
            start, stop = plain.span(it.start, it.end)
            parts += [text[end:start], self._placeholder(it.kind, it.value)]
            end = max(end, stop)
        return "".join(parts) + text[end:]

    def _placeholder(self, kind: str, value: str) -> str:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if (kind, value) not in self._placeholders:
            self._values[kind] = self._values.get(kind, 0) + 1
            self._placeholders[kind, value] = f"<{kind}_{self._values[kind]}>"
        return self._placeholders[kind, value]


def redact(text: str) -> str:
    """What a customer or an agent wrote, without personal data."""
    return Redactor()(text)


def redact_article(text: str) -> str:
    """An article without personal data; the names in it stay."""
    return Redactor(names=False)(text)


def redacted_value(value: Any, redactor: Redactor, private: bool = False, field: str = "") -> Any:
    """A JSON value without personal data, a number that is some as the text of its placeholder.

    With `private`, what stands in a field such as `cvv` or `password`, however deep, goes whatever it looks like.
    """
    if isinstance(value, dict):
        within = _PRIVATE_FIELD.search(field)
        return {
            redactor(str(key)): redacted_value(held, redactor, private, field if within else str(key))
            for key, held in value.items()
        }
    if isinstance(value, list):
        return [redacted_value(held, redactor, private, field) for held in value]
    if isinstance(value, bool) or value is None:
        return value
    if private and _PRIVATE_FIELD.search(field):
        return "<PRIVATE>"
    text = redactor(str(value))
    return value if text == str(value) else text


def without_private_fields(text: str, redactor: Redactor) -> str:
    """What a tool replied; if it is JSON, without what its fields say is personal, however it looks."""
    value = json_value(text)
    try:
        redacted = redacted_value(value, redactor, private=True)
    except RecursionError:  # nested too deep to be a tool's reply
        return text
    return text if redacted == value else json.dumps(redacted, ensure_ascii=False)


def json_value(text: str) -> Any:
    """The JSON object or list that a text is; None if it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _find(text: str) -> list[Found]:
    """All in `text` but names; the places do not overlap."""
    found: list[Found] = []
    if "@" in text:
        found += _emails(text)
    if not _DIGIT.search(text) and (text.isascii() or not _NUMERAL.search(text)):
        return found
    for look in (_ibans, find_numbers, _announced_codes):
        found += look(_masked(text, found))
    return found


def _masked(text: str, found: Sequence[Found]) -> str:
    """`text` of the same length in which nothing that is found already can be part of anything else."""
    if not found:
        return text
    parts, end = [], 0
    for it in sorted(found, key=lambda it: it.start):
        parts += [text[end : it.start], "<" * (it.end - it.start)]
        end = it.end
    return "".join(parts) + text[end:]


def _clear_of(taken: Sequence[Found], found: Iterable[Found]) -> list[Found]:
    return [it for it in found if not any(it.start < other.end and other.start < it.end for other in taken)]


def _emails(text: str) -> Iterator[Found]:
    end = 0
    for at in _AT.finditer(text):
        name = _EMAIL_NAME.search(text, max(end, at.start() - 65), at.start())
        domain = _EMAIL_DOMAIN.match(text, at.end()) if name else None
        # With spaces around the sign it may be a word and a web site.
        if name and domain and (len(at[0]) == 1 or any(char in name[0] for char in "0123456789._")):
            end = domain.end()
            yield Found("EMAIL", f"{name[0]}@{domain[0]}".replace("。", ".").lower(), name.start(), end)


def _ibans(text: str) -> Iterator[Found]:
    for match in _IBAN.finditer(text):
        start = match.start() - 2
        for group in reversed([*_GROUP.finditer(text, start, match.end())]):  # the last may be words after it
            value = _BETWEEN.sub("", text[start : group.end()]).upper()
            if not _GROUP.match(text, group.end()) and iban.is_valid(value, check_country=False):
                yield Found("IBAN", value, start, group.end())
                break


def _announced_codes(text: str) -> Iterator[Found]:
    if not any(map(text.lower().__contains__, _ANNOUNCING)):
        return
    for match in _ANNOUNCED.finditer(text):
        yield Found("CVV", match[1].translate(NUMERAL_VALUES), *match.span(1))


def _codes_after_cards(text: str, found: Sequence[Found]) -> list[Found]:
    """Bare security codes: digits right after a card, or after its expiry."""
    cards = [it for it in found if it.kind == "CARD"]
    text = _masked(text, found) if cards else text
    codes = []
    for card in cards:
        code = _BARE.match(text, card.end)
        if code and len(code[1]) <= (4 if card.value.startswith(("34", "37")) else 3):
            codes.append(Found("CVV", code[1], *code.span(1)))
    return codes


def _codes_given_alone(texts: Sequence[str], found: Sequence[Sequence[Found]]) -> Iterator[tuple[int, Found]]:
    """Messages that are a security code only, up to two after a card, or after the question for the code."""
    for message, text in enumerate(texts):
        if len(text) > 30 or found[message] or not (code := _BARE_REPLY.match(text)):
            continue
        before = range(max(0, message - 2), message)
        cards = [it for other in before for it in found[other] if it.kind == "CARD"]
        if cards or any(_ASKS_FOR_CODE.search(texts[other]) for other in before):
            yield message, Found("CVV", code[1].translate(NUMERAL_VALUES), *code.span(1))
