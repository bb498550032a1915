"""An answer judged sentence by sentence while it streams.

Each sentence gets the marker of the passage that supports it; markers that the model wrote are taken out; figures that
no source states are noted, or their sentences left out; what looks like a card number never leaves.
"""

import re
from collections.abc import Set

from assistant.citations import MARKER, Citer
from assistant.figures import Figure, unsupported
from assistant.redaction import redact
from retrieval.language import LIST_MARKER

_CLOSING = "”’\"')"
_SENTENCE_END = re.compile(rf"[.!?][{_CLOSING}]*(?=\s)|[。！？]|\n")
_STEP = re.compile(r"\s*\d{1,2}\.")
"""The number of a step, whose full stop ends no sentence."""
_DIGIT = re.compile(r"\d")
_UNDECIDED = re.compile(r"(?:\d[ .·-]?)+$|[^\S\n]*(?:\[\d*)?$")
"""What may go on as a number or as a marker."""
_LONG_NUMBER = re.compile(r"(?<!\d)(?:\d[ .·-]?){12,}\d(?!\d)")


class Verifier:
    """Judges one answer. Text is passed on as it comes; only what may turn out to be something else waits."""

    def __init__(self, citer: Citer, known: Set[Figure], instead: str | None = None) -> None:
        """Cite with `citer`; `known` are the figures that sources state.

        With `instead`, sentences with other figures are left out, and it stands in place of the first one; then each
        sentence waits until it is whole.
        """
        self.unsupported: list[str] = []
        """Figures that no source states, as the answer wrote them."""
        self.dropped = 0
        """Markers of the model whose sentences no passage supports."""
        self._citer = citer
        self._known = known
        self._instead = instead
        self._withheld = False
        self._sentence = ""
        self._sent = 0
        """Characters of it that were passed on."""
        self._scanned = 0
        """Characters of it in which no sentence can end."""
        self._claimed = 0
        """Markers that the model put into it."""

    def feed(self, text: str) -> str:
        """What can be passed on now that the model wrote `text`."""
        if "]" not in text:
            ready = self._grown(text)
        else:
            first, *others = MARKER.split(self._sentence + text)
            self._sentence, self._scanned = "", 0
            ready = self._grown(first)
            for part in others:
                self._claimed += 1
                ready += self._grown(part)
        if self._instead is None and self._sentence:
            undecided = _UNDECIDED.search(self._sentence, self._sent)
            to = undecided.start() if undecided else len(self._sentence)
            ready += self._sentence[self._sent : to]
            self._sent = to
        return ready

    def _grown(self, text: str) -> str:
        """The sentences that are whole now that `text` goes on."""
        self._sentence += text
        if _DIGIT.search(text):
            self._sentence = _LONG_NUMBER.sub(lambda number: redact(number[0]), self._sentence)
        ready = ""
        while end := _SENTENCE_END.search(self._sentence, self._scanned):
            if _STEP.fullmatch(self._sentence, 0, end.end()):
                self._scanned = end.end()
                continue
            stop = end.start() if end[0] == "\n" else end.end()
            ready += self._judged(self._sentence[:stop]) + self._sentence[stop : end.end()]
            self._sentence, self._sent, self._scanned = self._sentence[end.end() :], 0, 0
        # Only a full stop at its very end may still turn out to be the end of the sentence.
        closed = len(self._sentence.rstrip(_CLOSING))
        self._scanned = max(0, closed - 1)
        return ready

    def end(self) -> str:
        """What still waited."""
        return self._judged(self._sentence) if self._sentence else ""

    def _judged(self, sentence: str) -> str:
        """The rest of `sentence`, with its marker."""
        invented = unsupported(sentence, self._known)
        number = self._citer.cite(LIST_MARKER.sub("", sentence))
        if number is None:
            self.dropped += self._claimed
        self._claimed = 0
        self.unsupported += invented
        if invented and self._instead is not None:
            first, self._withheld = not self._withheld, True
            before = sentence[: len(sentence) - len(sentence.lstrip())]
            return before + self._instead if first else ""
        return sentence[self._sent :] + (f" [{number}]" if number else "")
