"""What an answer claims: its sentences without courtesies, questions, and those that only say that nothing is known."""

import re
from collections.abc import Set

from assistant.citations import without_markers, words
from assistant.figures import Figure, unsupported
from eval.scorers.phrases import even, phrases
from retrieval.language import sentences

_BUT = re.compile(r"[,;，；]?\s*\b(?:but|however|though)\b,?\s*|[,，;；]?(?:不过|但是|但|然而)[,，]?", re.IGNORECASE)
_AROUND = " .!~…。:()*\"'“”"


def claims(text: str, known: Set[Figure] = frozenset()) -> list[str]:
    """The claims of an answer, in order; whatever states a figure that is not among `known` is one."""
    parts = [part for sentence in sentences(without_markers(text)) for part in _parts(sentence)]
    return [part for part in parts if unsupported(part, known) or _asserts(part)]


def gives_up(text: str) -> bool:
    """Whether some sentence says that nothing is known, or offers a person."""
    return any(map(_gives_up, sentences(without_markers(text))))


def _parts(sentence: str) -> list[str]:
    """The sentence; one that gives up may go on after a "but"."""
    return [part for part in _BUT.split(sentence) if part.strip()] if _gives_up(sentence) else [sentence]


def _asserts(part: str) -> bool:
    plain = even(part).rstrip(_AROUND)
    return bool(words(part)) and not plain.endswith("?") and not _gives_up(part) and not _is_courtesy(plain)


def _gives_up(sentence: str) -> bool:
    plain = even(sentence)
    return bool(phrases("unknown").search(plain) or phrases("offer").search(plain))


def _is_courtesy(plain: str) -> bool:
    parts = [part.strip(_AROUND) for part in re.split(r"[,;]", plain)]
    return all(phrases("courtesy").fullmatch(part) for part in parts if part)
