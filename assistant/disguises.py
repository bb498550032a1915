"""Text as a recogniser should see it: no invisible characters, one kind of digit; and where each character was."""

import re
import unicodedata
from dataclasses import dataclass

_NUMERALS = "〇零○一二三四五六七八九幺两兩壹贰貳叁參肆伍陆陸柒捌玖"
NUMERAL_VALUES = str.maketrans(_NUMERALS, "000" + "123456789" + "122" + "12233456" + "6789")
# 一 and 两 of a following word (一直, 两张) are no digits of the number before it.
_NUMERAL = rf"[{_NUMERALS}](?:(?<![一两兩])|(?![直下共起样定般些个個张張天次]))"
_NUMERAL_RUN = re.compile(rf"{_NUMERAL}(?:[^\w<>]{{0,3}}{_NUMERAL}){{3,}}+")
_INVISIBLE = {"Cf", "Mn", "Me"}
"""Unicode categories: zero-width and bidi marks, combining marks such as those of keycap digits."""


@dataclass(frozen=True)
class Plain:
    text: str
    origin: list[int] | None
    """For each character of `text` its place in the original; None where they are the same."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The place in the original of `text[start:end]`, which is not empty."""
        return (start, end) if self.origin is None else (self.origin[start], self.origin[end - 1] + 1)


class _Characters(dict[int, str | None]):
    """What `str.translate` makes of a character, worked out when it is first met: most are never."""

    def __missing__(self, code: int) -> str | None:
        self[code] = plain = _plain(chr(code))
        return plain


def _plain(char: str) -> str | None:
    category = unicodedata.category(char)
    if category in _INVISIBLE:
        return None
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if category == "Zs":
        return " "
    if category == "Pd" or char in "−ー":
        return "-"
    if char in "•‧∙⋅・･":
        return "·"
    compatible = unicodedata.normalize("NFKC", char)
    return compatible if len(compatible) == 1 else char


_CHARACTERS = _Characters()


def undisguise(text: str) -> Plain:
    """`text` without invisible characters, its digits ASCII, as are full-width letters, dashes and spaces.

    Four or more Chinese numerals that follow each other are digits too: 四一一一 is 4111, 一 is not 1.
    """
    if text.isascii():
        return Plain(text, None)
    plain = text.translate(_CHARACTERS)
    origin = None
    if len(plain) != len(text):
        origin = [place for place, char in enumerate(text) if _CHARACTERS[ord(char)] is not None]
    return Plain(_NUMERAL_RUN.sub(lambda match: match[0].translate(NUMERAL_VALUES), plain), origin)
