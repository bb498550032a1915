"""Whether digits are the number of a payment card or of a Chinese identity card. Check digits: python-stdnum."""

import datetime
import re

from stdnum import luhn
from stdnum.cn import ric

from assistant.digit_runs import UNIT, Window, is_cut, is_of_an_order

LEAST_DIGITS = 12
_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:30[0-59]|3[689]\d)\d{11}"  # Diners Club
    r"|35\d{14}|(?:2131|1800)\d{11}"  # JCB
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?"  # Discover
    r"|62\d{14,17}|(?:9558|6013)\d{15}"  # UnionPay; and Chinese cards older than its prefix
    r"|(?:5018|5020|5038|5893|6304|6390|6759|676[1-3])\d{8,15}"  # Maestro
    r"|220[0-4]\d{12,15}"  # Mir
)
"""Prefixes and lengths that issuers use: 24% of random 16 digits fit, and a tenth of those pass Luhn."""
_CARD_WORD = re.compile(
    r"(?i)(?:card|visa|master|maestro|amex|unionpay|jcb|diners|discover|rupay|卡|银联)"
    r"(?:[\s:：#=.,，-]|number|num|no|is|was|号码?|是|为){0,6}$"
)
_MOST_GROUPS = 8
"""More are a list of numbers, unless single digits, of one length (41 11 11) or with one sign between (4-111-11)."""
_PROVINCES = set(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12][0-9]|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)[0-9]{2}"
_WRITTEN_DATE = re.compile(
    rf"(?<![0-9])(?:{_DAY}[/.-]{_MONTH}[/.-]{_YEAR}|{_MONTH}/{_DAY}/{_YEAR}|{_YEAR}[/.-]{_MONTH}[/.-]{_DAY})(?![0-9])"
)
_AMOUNT_AFTER = re.compile(rf" ?{UNIT}|[.:]\d")


def is_card_number(digits: str) -> bool:
    """Whether an issuer may have given out this number."""
    return bool(_CARD.fullmatch(digits)) and bool(luhn.is_valid(digits))


def is_identity_number(digits: str) -> bool:
    """Whether it is a Chinese resident's number; counties come and go, so only the province must exist."""
    if len(digits) != 18 or digits[:2] not in _PROVINCES or "X" in digits[:17]:
        return False
    try:
        born = datetime.date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    return 1900 <= born.year <= 2099 and bool(ric.calc_check_digit(digits) == digits[17])


def is_card(text: str, window: Window) -> bool:
    """Whether the window is a card by its digits, its shape and what it is part of.

    Where the word right before means a card, any 12 to 19 digits that pass Luhn are one.
    """
    digits = window.digits
    is_issued = _CARD.fullmatch(digits)
    if not (is_issued or (window.first == 0 and digits.isdigit())) or not luhn.is_valid(digits):
        return False
    if not is_issued and not _CARD_WORD.search(window.before(text)):
        return False
    if not _is_one_number(text, window) or _WRITTEN_DATE.search(text, window.start, window.end):
        return False
    return not is_cut(text, window) and not is_of_an_order(window.before(text))


def is_identity(text: str, window: Window) -> bool:
    """Whether the window is an identity number, and not two dates in a row."""
    if not is_identity_number(window.digits):
        return False
    return len({*window.gaps(text)}) < 2 or not _WRITTEN_DATE.search(text, window.start, window.end)


def is_doubtful(text: str, window: Window) -> bool:
    """Whether a group at its end may be a date or an amount of its own, by what is next to it."""
    if window.first == window.last:
        return False
    gaps, sizes = window.gaps(text), window.sizes()
    before, after = window.before(text)[-2:], text[window.end : window.end + 2]
    cut_after = sizes[-1] <= 2 and after[:1] in {*"/:."} - {*gaps} and after[1:].isdigit()
    cut_before = sizes[0] <= 2 and before[1:] in {*"-/:."} - {*gaps} and before[:1].isdigit()
    return cut_after or cut_before or (sizes[-1] <= 4 and bool(_AMOUNT_AFTER.match(text, window.end)))


def _is_one_number(text: str, window: Window) -> bool:
    if window.last - window.first < _MOST_GROUPS:
        return True
    *sizes, last = window.sizes()
    gaps = {*window.gaps(text)}
    is_regular = len({*sizes}) == 1 and last <= sizes[0]
    return (len(gaps) == 1 and (is_regular or gaps <= {*"-./·_"})) or (is_regular and sizes[0] == 1)
