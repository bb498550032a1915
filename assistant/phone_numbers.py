"""Whether digits are a phone number: by phonenumbers, and for Chinese ones also by how they are written."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import phonenumbers
from phonenumbers import PhoneNumberType, ValidationResult

from assistant.digit_runs import UNIT, Window, is_cut, is_of_an_order

DIGITS = range(7, 18)
CN_MOBILE = re.compile(r"(?:(?:00)?86)?(1[3-9]\d{9})")
PLUS = re.compile(r"\+[ (]{0,2}$")
_GAP = re.compile(r"[\s\-.·/()_~]{0,4}")
_CN_AREA = re.compile(r"0(?:10|2\d|[3-9][1-9]\d)")
_PHONE_WORD = re.compile(
    r"(?i)(?:phone|mobile|tel|cell|whatsapp|电话|手机|座机|联系方式)(?:[\s:：#=.(（-]|number|no|is|号码?|是|为){0,6}$"
)
_ORDER_WORD = re.compile(
    r"(?i)(?:order|invoice|reference|ticket|transaction|tracking|case|单)[ 号]?(?:id|no|number|num)?\W{0,3}$"
)
_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])")
_AMOUNT_AFTER = re.compile(rf" ?{UNIT}|[.:]\d")
_OF_COMPANIES = {
    *(PhoneNumberType.TOLL_FREE, PhoneNumberType.SHARED_COST, PhoneNumberType.PREMIUM_RATE, PhoneNumberType.UAN),
}
"""Hotlines: no one's personal data, and help articles are full of them."""
_INVALID = PhoneNumberType.UNKNOWN


class Phone(NamedTuple):
    window: Window
    e164: str
    is_valid: bool
    """Dialled with a plus, and valid: surer than any other."""


def find_phone(text: str, windows: Sequence[Window]) -> Phone | None:
    """The longest of `windows`, which start at one place, that is a phone number."""
    before = windows[0].before(text)
    if PLUS.search(before):
        return _with_plus([window for window in windows if len(window.digits) < 16 and _is_dialled(text, window)])
    announced = windows[0].first == 0 and bool(_PHONE_WORD.search(before))
    for window in reversed(windows):
        if announced or _may_be_national(window):
            number = _national(text, window) if _is_dialled(text, window) else None
            number = number or (window.digits if announced and _is_told(text, window) else None)
            if number:
                return None if is_of_an_order(before) else Phone(window, number, False)
    return None


def is_valid_abroad(digits: str) -> bool:
    """Whether it is a valid number with a plus before it."""
    return _valid(f"+{digits}", None) is not None


def _with_plus(windows: Sequence[Window]) -> Phone | None:
    possible = None
    for window in reversed(windows):
        number = _parsed(f"+{window.digits}")
        kind = phonenumbers.number_type(number) if number else _INVALID
        if number and kind != _INVALID:
            return Phone(window, _e164(number), True) if kind not in _OF_COMPANIES else possible
        if number and not possible and len(window.digits) > 8:
            reason = phonenumbers.is_possible_number_with_reason(number)
            possible = Phone(window, _e164(number), False) if reason == ValidationResult.IS_POSSIBLE else None
    return possible


def _is_dialled(text: str, window: Window) -> bool:
    return all(_GAP.fullmatch(gap) for gap in window.gaps(text))


def _may_be_national(window: Window) -> bool:
    """A fast test that most windows fail."""
    digits = window.digits
    return digits[0] == "0" or bool(CN_MOBILE.fullmatch(digits)) or window.sizes()[-3:] == (3, 3, 4)


def _is_told(text: str, window: Window) -> bool:
    """Whether the window may be the number that a word such as 电话 before it announces."""
    digits = window.digits
    if len(digits) > 12 or window.last - window.first > 4 or not digits.isdigit() or not _is_dialled(text, window):
        return False
    return not _DATE.match(digits) and not _AMOUNT_AFTER.match(text, window.end)


def _national(text: str, window: Window) -> str | None:
    """The E.164 form of a number dialled without a plus."""
    digits, sizes, gaps = window.digits, window.sizes(), window.gaps(text)
    if mobile := CN_MOBILE.fullmatch(digits):
        is_decimal = len(sizes) == 2 and gaps == ["."]
        is_address = len(sizes) == 4 and max(sizes) <= 3 and {*gaps} == {"."}
        is_grouped = len(sizes) <= 3 or len({*gaps}) == 1 or (len(sizes) == 4 and sizes[0] in (2, 4))
        is_number = (is_grouped and min(sizes) > 1 and not is_decimal and not is_address) or {*sizes} == {1}
        return f"+86{mobile[1]}" if is_number else None
    if not digits.isdigit():
        return None
    if digits.startswith("00"):
        return _valid(f"+{digits[2:]}", None) if len(digits) >= 10 else None
    if digits[0] == "0" and len(digits) in (10, 11, 12) and len(sizes) <= 4:
        if _CN_AREA.fullmatch(digits[: sizes[0]]) and sizes[1:] in ((7,), (8,), (4, 4), (3, 4)):
            return f"+86{digits[1:]}"
        return _valid(digits, "CN") or _valid(digits, "GB")
    if sizes == (3, 3, 4) or (sizes == (1, 3, 3, 4) and digits[0] == "1"):
        is_order = is_cut(text, window) or _ORDER_WORD.search(window.before(text))
        return None if is_order else _valid(digits, "US")
    return None


def _parsed(number: str, region: str | None = None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None


def _valid(number: str, region: str | None) -> str | None:
    parsed = _parsed(number, region)
    is_personal = parsed and phonenumbers.number_type(parsed) not in {_INVALID, *_OF_COMPANIES}
    return _e164(parsed) if parsed and is_personal else None


def _e164(number: phonenumbers.PhoneNumber) -> str:
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
