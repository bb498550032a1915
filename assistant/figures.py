"""Figures that an answer states and no source does: amounts, shares, deadlines, dates and times of day.

Read by expressions written here: cn2an and text2num know numbers without their units, quantulum3 knows no Chinese.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Set
from decimal import Decimal
from typing import NamedTuple

_EVEN = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys("\u00a0\u2009\u202f\u3000①②③④⑤⑥⑦⑧⑨⑩", " ")
    | dict.fromkeys("‐‑–—−～", "-")
    | dict(zip("￥個時鐘萬億兩點幣鎊歐圓塊週號後盧銀", "¥个时钟万亿两点币镑欧圆块周号后卢银", strict=True))
)
"""A character for each, so that places stay; the Traditional ones are those of numbers and units."""

_NUMERAL_VALUES = dict(zip("零〇一二两三四五六七八九", (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))
_NUMERAL_SIZES = {"十": 10, "百": 100, "千": 1_000, "万": 10_000, "亿": 100_000_000}
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_WORD_VALUES = {
    **{word: n for n, word in enumerate(_SMALL.split())},
    **{word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)},
}
_WORD_SIZES = {"hundred": 100, "k": 1_000, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_MONTHS = {month: n for n, month in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}

_CURRENCIES = {
    "HKD": r"HK\$|HKD|Hong Kong dollars?|港元|港币",
    "USD": r"US\$|USD|(?:US |U\.S\. )?dollars?|美元|美金|\$",
    "EUR": r"€|EUR|euros?|欧元",
    "GBP": r"£|GBP|pounds?|英镑",
    "JPY": r"JPY|yen|日元|日圆",
    "INR": r"₹|INR|Rs\.?|rupees?|卢比",
    "CNY": r"¥|CNY|RMB|yuan|renminbi|人民币|元|圆|块钱?",
}
_PREFIXES = {"percent": "百分之", "T_plus": "[TD][+]", **_CURRENCIES}
_UNITS = {
    "percent": r"%|percent(?:age points?)?|per cent|个?百分点",
    **_CURRENCIES,
    "second": r"seconds?|secs?|秒钟?",
    "minute": r"minutes?|mins?|分钟",
    "hour": r"hours?|hrs?|h|小时|钟头",
    "business_day": r"(?:business|working|banking)[ -]days?|工作日|工作天|营业日|交易日",
    "day": r"(?:(?:calendar|natural|consecutive) )?days?|天|自然[日天]|日(?!期|常|历)|号(?!码|线|楼)",
    "week": r"weeks?|星期|礼拜|周(?![年末期边])",
    "month": r"months?|(?<=个)月",
    "year": r"years?|年",
}


def _any_of(names: Mapping[str, str]) -> str:
    return "|".join(f"(?P<{unit}>{name})" for unit, name in names.items())


_AFTER = re.compile(
    rf"(?:\s?个\s?|[ -])?(?:(?:more|full|further) )?(?:{_any_of(_UNITS)})(?![a-z]|(?<=[$€£¥₹])\d)", re.IGNORECASE
)
_BEFORE = re.compile(
    rf"(?:(?<![a-z])(?=[a-z])|(?![a-z]))(?:{_any_of(_PREFIXES)})\s?$",
    re.IGNORECASE,
)
_LONGEST_BEFORE = 5
_LONGEST_COUNT = 7
"""Digits from which a number without a unit is that of an order or a phone."""
_LETTER = re.compile(r"[A-Za-z]")
_ORDINAL_DAY = re.compile(r"(?:st|nd|rd|th)(?= (?:day )?of\b)")
_COUNTED = re.compile(r"\s?[个次笔张种条项位名家份台部间倍]|[ -][A-Za-z]")
"""What follows a number in words that counts something: three attempts, 三次."""

_NUMERALS = "零〇一二两三四五六七八九十百千万亿"
_DIGITS = (
    r"(?:(?<![A-Za-z0-9_])(?<!\d\.)|(?<=USD|HKD|EUR|GBP|JPY|INR|CNY|RMB))"
    r"(?:\d{1,3}(?:,\d{2,3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?(?!\.?\d)"
    r"(?:\s?(?:[百千万亿]{1,2}|hundred\b|thousand\b|million\b|billion\b|[kK](?![A-Za-z0-9])))?"
)
_NUMERAL = (
    r"(?<![统唯万第某同逐周期])(?:(?<![后下每当哪])|(?!一))"  # no count: 统一, 第三, 下一个工作日
    rf"[{_NUMERALS}]+(?:点[{_NUMERALS[:12]}]+[百千万亿]*)?|半"
)
_WORD = "|".join(f"[{word[0].upper()}{word[0]}]{word[1:]}" for word in [*reversed(_WORD_VALUES), *_WORD_SIZES])
_WORDS = (
    rf"\b(?:(?:{_WORD})(?:(?:-| and | )(?:{_WORD}))*"
    r"|[Hh]alf an?|(?:(?<=[Ww]ithin )|(?<=[Aa]fter )|(?<=about ))an?)\b"
)
_OTHERS = "half https step section page article chapter option item figure table number no"
_FIRST_WORDS = [*_WORD_VALUES, *_WORD_SIZES, *_MONTHS, *_OTHERS.split()]
_FIRST_LETTERS = "|".join(
    f"[{initial}{initial.lower()}](?:{'|'.join(word[1:3] for word in _FIRST_WORDS if word[0].upper() == initial)})"
    for initial in sorted({word[0].upper() for word in _FIRST_WORDS})
)
"""A fast test that most words fail: the letters that the word begins with."""
_NUMBER = rf"{_DIGITS}|{_NUMERAL}|{_WORDS}"
_RANGE = rf"(?P<first>{_NUMBER})(?:\s?(?:-|至|到|\bto\b|\bor\b|\band\b)\s?(?P<second>{_NUMBER}))?"
_MONTH = rf"(?:{'|'.join(_MONTHS)})[a-z]*\.?"
_DATE = "|".join(
    [
        r"(?<![\d.-])(?P<y1>\d{4})[-/.](?P<m1>\d{1,2})[-/.](?P<d1>\d{1,2})(?!\d)",
        rf"(?:(?P<y2>\d{{4}}|[{_NUMERALS[:12]}]{{4}})\s?年\s?)?(?P<m2>\d{{1,2}}|[{_NUMERALS}]{{1,2}})\s?月"
        rf"(?:\s?(?P<d2>\d{{1,2}}|[{_NUMERALS}]{{1,3}})\s?[日号])?",
        rf"(?<!\d)(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<m3>{_MONTH})(?:,? (?P<y3>\d{{4}}))?",
        rf"(?P<m4>{_MONTH}) (?:(?P<d4>\d{{1,2}})(?:st|nd|rd|th)?(?![\d:%])(?:,? (?P<y4>\d{{4}}))?|(?P<y5>\d{{4}}))",
    ]
)
_CLOCK = (
    r"(?:(?P<part>凌晨|早上|上午|中午|下午|傍晚|晚上)\s?)?(?<!\d)(?:"
    r"(?P<h1>\d{1,2}):(?P<min1>\d{2})(?::\d{2})?(?:\s?(?P<half1>[AaPp])\.?[Mm]\b)?"
    r"|(?P<h2>\d{1,2})\s?(?P<half2>[AaPp])\.?[Mm]\b"
    rf"|(?P<h3>\d{{1,2}}|[{_NUMERALS}]{{1,3}})点"
    rf"(?P<rest>半|整|钟|(?P<min3>\d{{1,2}}|[{_NUMERALS}]{{1,3}})分|(?=[前后之以至到-]))?)"
)
_LEFT_ALONE = "|".join(
    [
        r"<[A-Z]+_\d+>|\[\d+\]|\(\d{1,2}\)|https?://\S+",
        r"(?:[Ss]tep|[Ss]ection|[Pp]age|[Aa]rticle|[Cc]hapter|[Oo]ption|[Ii]tem|[Ff]igure|[Tt]able|[Nn]umber|[Nn]o\.)s?"
        r"\s?#?\d+(?:\s?(?:-|to|and|or|,)\s?\d+)*(?!\d)",
        rf"(?:步骤|选项)\s?\d+|第\s?[\d{_NUMERALS}]+",
        r"\d+ (?:steps|ways|options|things|points|reasons|methods)\b|\d+\s?[个种条]?(?:步|方法|方式|选项|原因|要点)",
        r"24\s?[/x×*]\s?7(?!\d)|7\s?[/x×*]\s?24(?!\d)",
        r"\+\d[\d ()-]{6,}\d|0\d{2,3}-\d{7,8}|\d{3,4}(?:-\d{3,4}){2,}|\d+(?:\.\d+){2,}",  # phones, versions
    ]
)
_TOKEN = re.compile(
    rf"(?:(?=[0-9<\[(+{_NUMERALS}半第步选凌早上中下傍晚])|(?<![A-Za-z])(?=[A-Za-z])(?={_FIRST_LETTERS}|(?<=[nrt] )a))"
    rf"(?:(?P<date>{_DATE})|{_LEFT_ALONE}|(?P<clock>{_CLOCK})|{_RANGE})"
)
_LIST_MARK = re.compile(r"[.):、](?!\d)")


class Figure(NamedTuple):
    value: Decimal
    """Of a date 20260131, with 0 for what it does not say; of a time of day its minutes."""
    unit: str
    """`CNY`, `percent`, `business_day`, `date`, `clock` …; nothing for a number alone."""


class _Stated(NamedTuple):
    """Where a text states a figure, or two that are a range."""

    start: int
    end: int
    figures: tuple[Figure, ...]
    claim: bool
    """Not a count in words, such as "three attempts": sources state figures so, answers often only talk so."""


def figures(text: str) -> frozenset[Figure]:
    """All that a source states, and what follows from it: of a date its day and its year."""
    return frozenset(each for stated in _stated(_even(text)) for it in stated.figures for each in _implied(it))


@functools.lru_cache(maxsize=1024)
def figures_of_passage(text: str) -> frozenset[Figure]:
    """`figures`, remembered: for articles only, never for what a customer wrote."""
    return figures(text)


def unsupported(sentence: str, known: Set[Figure]) -> tuple[str, ...]:
    """The figures of a sentence, as written and in order, that are not among `known`, the `figures` of all sources."""
    return tuple(
        sentence[stated.start : stated.end]
        for stated in _stated(_even(sentence))
        if stated.claim and not known >= frozenset(stated.figures)
    )


def _even(text: str) -> str:
    return text if text.isascii() else text.translate(_EVEN)


def _stated(text: str) -> Iterator[_Stated]:
    free = 0
    for token in _TOKEN.finditer(text):
        stated = None
        if token["date"]:
            stated = _alone(token, _date(token))
        elif token["clock"]:
            stated = _alone(token, _clock(token))
        elif token["first"]:
            stated = _quantity(text, token, free)
        if stated:
            free = stated.end
            yield stated


def _alone(token: re.Match[str], figure: Figure | None) -> _Stated | None:
    return _Stated(*token.span(), (figure,), True) if figure else None


def _quantity(text: str, token: re.Match[str], free: int) -> _Stated | None:
    """A number, or a range, with the unit beside it; None for digits of a name, and for words that count nothing.

    What stands before `free` belongs to the figure before it.
    """
    start, end = token.start("first"), token.end()
    numbers = [number for number in (token["first"], token["second"]) if number]
    before = _BEFORE.search(text, max(free, start - _LONGEST_BEFORE), start)
    after = _AFTER.match(text, end) or _ORDINAL_DAY.match(text, end)
    unit = ""
    if before:
        unit, start = before.lastgroup or "", before.start()
    if after and unit in ("", after.lastgroup):
        unit, end = after.lastgroup or "day", after.end()
    digits = numbers[-1][0].isdecimal()
    if not unit and (_names(text, start, end, numbers[-1]) if digits else not _counts(numbers[-1], text, end)):
        return None
    values = [value for number in numbers for value in _values(number)]
    if unit == "year" and 1900 <= values[0] < 2100:
        unit = ""
    return _Stated(start, end, tuple(Figure(value, unit) for value in values), bool(unit) or digits)


def _names(text: str, start: int, end: int, digits: str) -> bool:
    """Whether digits without a unit are those of a name, an order or a phone, or the number of a list's entry."""
    if (digits.isdecimal() and len(digits) >= _LONGEST_COUNT) or _LETTER.match(text, end):
        return True
    mark = _LIST_MARK.match(text, end)
    if not mark:
        return False
    before = text[:start].rstrip(" \t>*•-")[-1:]
    return before in ("", "\n") or (before in ".;:!?。" and text[mark.end() : mark.end() + 1] == " ")


def _counts(words: str, text: str, end: int) -> bool:
    """Whether words count something, though not in units; 一千 always does, "a" and 半 never do."""
    if words[0] in "aA半":
        return False
    return _COUNTED.match(text, end) is not None or (words[0] in _NUMERAL_VALUES and words[-1] in _NUMERAL_SIZES)


def _values(number: str) -> list[Decimal]:
    """Of 5, 1,000, 1.5万, 十五 and "twenty-five" the one value, of 三五 both."""
    number = number.lower()
    if number[0].isdigit():
        plain = number.replace(",", "").replace(" ", "")
        digits = plain.rstrip("百千万亿hundretoasmilbk")
        return [Decimal(digits) * _size(plain[len(digits) :])]
    if number[0].isascii():
        return [_of_words(number)]
    if len(number) == 2 and all(_NUMERAL_VALUES.get(char) for char in number):
        return [Decimal(_NUMERAL_VALUES[char]) for char in number]
    return [_of_numerals(number)]


def _size(suffix: str) -> int:
    return _WORD_SIZES.get(suffix) or math.prod(_NUMERAL_SIZES[char] for char in suffix)


def _of_words(words: str) -> Decimal:
    """Of "two hundred and fifty thousand" 250000, of "half an" 0.5, of "a" 1."""
    total = group = 0
    for word in re.findall(r"[a-z]+", words):
        if word == "half":
            return Decimal("0.5")
        if word == "hundred":
            group = (group or 1) * 100
        elif word in _WORD_SIZES:
            total, group = total + (group or 1) * _WORD_SIZES[word], 0
        else:
            group += 1 if word in ("a", "an") else _WORD_VALUES.get(word, 0)
    return Decimal(total + group)


def _of_numerals(numerals: str) -> Decimal:
    """Of 二百五十 250, of 一点五万 15000, of 二〇二六 2026, of 半 0.5."""
    if numerals == "半":
        return Decimal("0.5")
    whole, point, rest = numerals.partition("点")
    if point:
        digits = rest.rstrip("百千万亿")
        decimals = "".join(str(_NUMERAL_VALUES[char]) for char in digits)
        return Decimal(f"{_of_numerals(whole)}.{decimals}") * _size(rest[len(digits) :])
    total = group = digit = 0
    for char in whole:
        if char in _NUMERAL_VALUES:
            digit = digit * 10 + _NUMERAL_VALUES[char]
        elif char in "万亿":
            lower = group + digit
            total = (total + lower) * _NUMERAL_SIZES[char] if char == "亿" else total + lower * _NUMERAL_SIZES[char]
            group = digit = 0
        else:
            group, digit = group + (digit or 1) * _NUMERAL_SIZES[char], 0
    return Decimal(total + group + digit)


def _date(token: re.Match[str]) -> Figure | None:
    """None for a month alone."""
    year = token["y1"] or token["y2"] or token["y3"] or token["y4"] or token["y5"]
    month = token["m1"] or token["m2"] or token["m3"] or token["m4"]
    day = token["d1"] or token["d2"] or token["d3"] or token["d4"]
    if not year and not day:
        return None
    month_value = _MONTHS.get(month[:3].title()) or _of_either(month)
    return Figure((_of_either(year) * 100 + month_value) * 100 + _of_either(day), "date")


def _clock(token: re.Match[str]) -> Figure | None:
    """None for 3点 alone, which may be three things."""
    hour = _of_either(token["h1"] or token["h2"] or token["h3"])
    half = (token["half1"] or token["half2"] or "").lower()
    if token["h3"] and token["part"] is None and token["rest"] is None:
        return None
    if hour < 12 and (half == "p" or token["part"] in ("下午", "傍晚", "晚上")):
        hour += 12
    if hour == 12 and half == "a":
        hour = Decimal(0)
    minutes = 30 if token["rest"] == "半" else _of_either(token["min1"] or token["min3"])
    return Figure(hour * 60 + minutes, "clock")


def _of_either(number: str | None) -> Decimal:
    if not number:
        return Decimal(0)
    return Decimal(number) if number[0].isdigit() else _of_numerals(number)


def _implied(figure: Figure) -> Iterator[Figure]:
    yield figure
    if figure.unit == "date":
        year, day = divmod(figure.value, 10_000)
        yield from (Figure(day, "date"), Figure(figure.value - day % 100, "date"), Figure(year, ""))
