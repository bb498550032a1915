"""JSON records out of a file, one at a time: the lines of JSONL, or the items of a JSON list of any size.

A list is not read with ijson: it stops at the first mistake, while here the rest of the list is still found, and it
can name neither the line nor the text of an item.
"""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from finetune.logs.conversations import BadLine
from finetune.logs.shape import KEPT, start

LONGEST = 4 << 20
"""Bytes of a line, or characters of a list's item, that are read at most."""
TOO_LONG = f"longer than {LONGEST >> 20} MB; split it"
_BLOCK = 1 << 16
_LIST = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:[{\]]|$)")
_BETWEEN = re.compile(r"[\s,]*")
_OPENING = re.compile(r'\{\s*"[^"\\]{1,100}"\s*:')
_OPENINGS = 16
"""Different starts of items that are remembered."""
_FOLLOWS = re.compile(r'\s*(?:[\[\]{]|$|,(?!\s*"[^"]*"\s*:))')
"""What may follow an item: if a key does, the item was closed too early."""
_OVERLAP = 1000
"""Characters that are looked at together: longer than an opening, or what follows an item."""


@dataclass(frozen=True)
class Record:
    place: str
    """file:line; of a list's items that begin in one line, the second is file:line#2."""
    value: Any
    text: str
    """What was read, cut to 8,000 characters."""


def starts_a_list(beginning: bytes) -> bool:
    """Whether a file that starts so is a JSON list, not a line of JSONL each."""
    return _LIST.match(beginning) is not None


def lines(file: IO[bytes], name: str) -> Iterator[Record | BadLine]:
    """Every line that is not blank."""
    number = 0
    while raw := file.readline(LONGEST):
        number += 1
        place = f"{name}:{number}"
        if len(raw) == LONGEST and not raw.endswith(b"\n"):
            while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield BadLine(place, TOO_LONG, shown(raw[: 5 * KEPT].decode("utf-8", "surrogateescape")))
            continue
        text = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8", "surrogateescape").strip()
        if text:
            yield _record(text, place)


def items(file: IO[bytes], name: str) -> Iterator[Record | BadLine]:
    """The items of a JSON list; or, without the brackets, values one after the other.

    Lists may follow one another. After a mistake, reading goes on with the next item that starts as others did: with
    the same key, and with the same white space before it, so that objects within items are not taken for items.
    Nothing is lost; but of two damaged neighbours, the second may be part of the first one's bad line.
    """
    window = _Window(file)
    openings: list[str] = []
    listed = window.next_is("[")
    cut_off = listed
    line, begun = 0, 0
    while window.skip_between():
        begun = begun + 1 if line == window.line else 1
        line = window.line
        place = f"{name}:{line}" + (f"#{begun}" if begun > 1 else "")
        if listed and window.next_is("]"):
            cut_off = window.next_is("[")
            if not cut_off and window.skip_between() and window.text[window.position] != "{":
                place = f"{name}:{window.line}"
                yield BadLine(place, "text after the end of the list", window.skip_to(openings))
            continue
        found = window.value(listed)
        if isinstance(found, str):
            own = _OPENING.match(window.text, window.position)
            yield BadLine(place, found, window.skip_to(openings or ([own[0]] if own else [])))
            cut_off = False
        else:
            value, text = found
            opening = _OPENING.match(text)
            if opening and opening[0] not in openings and len(openings) < _OPENINGS:
                openings.append(opening[0])
            yield _checked(value, text, place)
            cut_off = listed
    if cut_off:
        yield BadLine(f"{name}:{window.line}", "the list is not closed by ]; the file may be cut off", "")


class _Window:
    """The part of a file that is being read, as text; bytes that are not UTF-8 are lone surrogates in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._ended = False
        self._line, self._counted = 1, 0
        self.text = ""
        self.position = 0

    @property
    def line(self) -> int:
        """The number of the line that the position is in."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def more(self) -> bool:
        """Read about as much as is left, so that trying again and again costs no more than twice as much."""
        if self._ended:
            return False
        _ = self.line
        raw = self._file.read(max(_BLOCK, len(self.text) - self.position))
        self._ended = not raw
        self.text = self.text[self.position :] + self._decoder.decode(raw, final=self._ended)
        self.position = self._counted = 0
        return True

    def skip_between(self) -> bool:
        """Go to the next item; False at the end of the file."""
        while True:
            match = _BETWEEN.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text):
                return True
            if not self.more():
                return False

    def next_is(self, char: str) -> bool:
        """Go past `char` if that comes next."""
        found = self.skip_between() and self.text[self.position] == char
        self.position += found
        return found

    def value(self, listed: bool) -> tuple[Any, str] | str:
        """The value here and its text, and go past it; or the reason why there is none."""
        while True:
            tail = False
            try:
                value, end = _DECODER.raw_decode(self.text, self.position)
                if end - self.position > LONGEST:
                    return TOO_LONG
                if len(self.text) - end < _OVERLAP and self.more():
                    continue
                if listed and not _FOLLOWS.match(self.text, end):
                    return f"not JSON: its end at character {end - self.position} is followed by no other item"
                text = self.text[self.position : end]
                self.position = end
                return value, text
            except json.JSONDecodeError as error:
                # A literal or escape that the window cuts is noticed at its start.
                tail = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 12
                reason = f"not JSON: {error.msg} at character {error.pos - self.position + 1}"
            except (ValueError, RecursionError) as error:
                reason = f"not JSON: {error}"
            if tail and len(self.text) - self.position > LONGEST:
                return TOO_LONG
            if not (tail and self.more()):
                return reason

    def skip_to(self, openings: Sequence[str]) -> str:
        """Go to the next item that starts so, or to the end; returns the start of what was passed over."""
        # The first object in a list or after a key is within an item.
        pattern = re.compile(rf"[^\[:\s]\s*({'|'.join(map(re.escape, openings))})") if openings else None
        passed = ""
        while True:
            found = pattern.search(self.text, self.position) if pattern else None
            end = found.start(1) if found else max(self.position, len(self.text) - _OVERLAP)
            passed += self.text[self.position : min(end, self.position + KEPT + 1)]
            self.position = end
            if found:
                return shown(passed)
            if not self.more():
                passed += self.text[self.position :]
                self.position = len(self.text)
                return shown(passed)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON; write null")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is not JSON, or cannot be written as UTF-8; the message says why.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    _check_halves(value, text)
    return value


def _check_halves(value: Any, text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can escape and UTF-8 cannot hold."""
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(str(error.object)[error.start]).strip("'")
            raise ValueError(f"{half} is half of a surrogate pair, without its other half") from error
        except RecursionError as error:
            raise ValueError(f"not JSON: {error}") from error


def _record(text: str, place: str) -> Record | BadLine:
    bad = _not_utf8(text, place)
    if bad:
        return bad
    try:
        return Record(place, loads(text), shown(text))
    except ValueError as error:
        return BadLine(place, str(error), shown(text))


def _checked(value: Any, text: str, place: str) -> Record | BadLine:
    """The record, unless its text cannot be written as UTF-8."""
    try:
        _check_halves(value, text)
    except ValueError as error:
        return BadLine(place, str(error), shown(text))
    return _not_utf8(text, place) or Record(place, value, shown(text))


def _not_utf8(text: str, place: str) -> BadLine | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte, code = len(text[: error.start].encode()) + 1, ord(text[error.start]) & 0xFF
        return BadLine(place, f"not UTF-8: byte {byte} of it is 0x{code:02x}; save the file as UTF-8", shown(text))
    return None


def shown(text: str) -> str:
    """The start of a record, as text that can be written."""
    return start(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
