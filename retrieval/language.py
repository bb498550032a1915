"""The two languages of our customers, and sentences in them."""

import functools
import re
from typing import Any, Literal

Language = Literal["en", "zh"]

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
LIST_MARKER = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s+")
_SENTENCE_END = re.compile(r"(?:[。！？!?]+[”’\"')）」]*|\.+[”’\"')）」]*(?=\s|$))")


def language_of(text: str) -> Language:
    """`zh` if at least a fifth of the letters are Han characters, else `en`.

    A fifth, because Chinese questions carry English product names; one Han character says about as much
    as four Latin letters.
    """
    han = len(_HAN.findall(text))
    return "zh" if han and han >= 0.2 * len(_LETTER.findall(text)) else "en"


def simplified(text: str) -> str:
    """`text` with Traditional Chinese characters written in Simplified ones, so that each finds the other.

    OpenCC, t2s: Taiwanese and Hong Kong wordings stay as they are, only their characters change.
    """
    return str(_t2s().convert(text)) if _HAN.search(text) else text


@functools.cache
def _t2s() -> Any:
    import opencc

    return opencc.OpenCC("t2s")


def sentences(text: str) -> list[str]:
    """The sentences of `text` in order, stripped, list markers and empty ones dropped.

    Newlines end a sentence; a full stop does only before white space, so `1.5%` and `Me.Help` stay whole.
    """
    found = []
    for line in text.splitlines():
        line, start = LIST_MARKER.sub("", line), 0
        for end in _SENTENCE_END.finditer(line):
            found.append(line[start : end.end()])
            start = end.end()
        found.append(line[start:])
    return [sentence.strip() for sentence in found if sentence.strip()]
