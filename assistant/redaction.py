"""Personal data out of text, before anything is written, embedded, trained on or sent to a model.

Check digits come from python-stdnum, phone numbers from phonenumbers; what is ours is finding candidates
through separators, full-width digits and zero-width characters.
"""

import re
import unicodedata
from collections.abc import Iterator

import phonenumbers
from stdnum import iban, luhn
from stdnum.cn import ric

_SEPARATOR = r"[\s\-._/·—–\u200b-\u200d\u2060\ufeff]"
_DIGITS = re.compile(rf"\d(?:{_SEPARATOR}{{0,3}}\d)*(?:{_SEPARATOR}?[xXｘＸ])?")
_EMAIL = re.compile(r"(?a:[\w.+-]+)[@＠](?a:[\w-]+)(?:[.．](?a:[\w-]+))+")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_GROUP = re.compile(r"[\dxXｘＸ]+")
_SECURITY_CODE = re.compile(
    r"(?i)((?:cvv2?|cvc2?|security code|安全码|校验码|验证码后三位|背面三位)\D{0,12}?)(\d{3,4})(?!\d)"
)
_CARD_DIGITS = range(13, 20)


class Redactor:
    """Replaces personal data by placeholders such as `<CARD_1>`.

    The same value gets the same placeholder from one redactor, so use one for a conversation.
    """

    def __init__(self) -> None:
        self._placeholders: dict[tuple[str, str], str] = {}
        self.counts: dict[str, int] = {}
        """Replacements made, by kind."""

    def __call__(self, text: str) -> str:
        text = _EMAIL.sub(lambda match: self._placeholder("EMAIL", match[0].lower()), text)
        text = _IBAN.sub(lambda match: self._iban(match[0]), text)
        text = _SECURITY_CODE.sub(lambda match: match[1] + self._placeholder("CVV", match[2]), text)
        text = _DIGITS.sub(lambda match: self._digits(match[0]), text)
        return self._phones(text)

    def _placeholder(self, kind: str, value: str) -> str:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        taken = sum(name[0] == kind for name in self._placeholders)
        return self._placeholders.setdefault((kind, value), f"<{kind}_{taken + 1}>")

    def _iban(self, text: str) -> str:
        """The longest start of `text` that is an IBAN replaced: capitals after it belong to other words."""
        words = text.split(" ")
        for count in range(len(words), 0, -1):
            candidate = " ".join(words[:count])
            if iban.is_valid(candidate):
                return " ".join([self._placeholder("IBAN", candidate.replace(" ", "")), *words[count:]])
        return text

    def _digits(self, run: str) -> str:
        """A run of digits with separators, each card and identity number in it replaced."""
        taken: list[tuple[int, int, str]] = []
        for start, end in _windows(run):
            digits = _plain_digits(run[start:end])
            kind = _kind_of(digits)
            if kind and all(end <= begin or start >= stop for begin, stop, _ in taken):
                taken.append((start, end, self._placeholder(kind, digits)))
        for start, end, placeholder in sorted(taken, reverse=True):
            run = run[:start] + placeholder + run[end:]
        return run

    def _phones(self, text: str) -> str:
        plain = "".join(_plain_digit(char) for char in text)
        matches = list(phonenumbers.PhoneNumberMatcher(plain, "CN"))
        for match in reversed(matches):
            number = phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164)
            text = text[: match.start] + self._placeholder("PHONE", number) + text[match.end :]
        return text


def redact(text: str) -> str:
    """`text` without personal data."""
    return Redactor()(text)


def _kind_of(digits: str) -> str | None:
    if len(digits) in _CARD_DIGITS and digits[0] in "23456" and luhn.is_valid(digits):
        return "CARD"
    return "ID" if len(digits) == 18 and ric.is_valid(digits) else None


def _windows(run: str) -> Iterator[tuple[int, int]]:
    """Spans of whole groups that may be one number, longest first: a card may have a year or code beside it."""
    groups = [(match.start(), match.end()) for match in _GROUP.finditer(run)]
    spans = []
    for first, (start, _) in enumerate(groups):
        length = 0
        for begin, end in groups[first:]:
            length += end - begin
            if length > _CARD_DIGITS.stop:
                break
            if length >= _CARD_DIGITS.start:
                spans.append((length, start, end))
    for _, start, end in sorted(spans, key=lambda span: -span[0]):
        yield start, end


def _plain_digits(text: str) -> str:
    return "".join(char for char in map(_plain_digit, text) if char.isdigit() or char in "xX").upper()


def _plain_digit(char: str) -> str:
    """An ASCII digit or X for any digit or full-width X, of the same length."""
    if char in "ｘＸ":
        return "X"
    digit = unicodedata.digit(char, None)
    return char if digit is None else str(digit)
