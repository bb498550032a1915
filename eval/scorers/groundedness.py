"""Whether the passages that an answer was made from support what it claims: by code, or by an NLI model."""

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from assistant.citations import LEAST_OVERLAP, NUMBER, numbers, overlap, words
from assistant.figures import Figure, figures, unsupported
from assistant.redaction import redact
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers.claims import claims
from eval.scorers.facts import normalised
from retrieval.errors import ModelError
from retrieval.language import language_of

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

LEAST_WORDS = 3
"""Words of a claim from which they are compared: "That works." shares none with any passage."""
_LONGEST_SHOWN = 80
"""Characters of a claim in the evidence."""
_QUOTED = re.compile(r"[\"“「『]([^\"“”「」『』]{2,60})[\"”」』]|\*\*(.+?)\*\*")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][A-Za-z]+|(?<=[\u3400-\u9fff])\s?[A-Za-z]{2,}")
"""A word with a capital inside an English sentence, a Latin word inside a Chinese one."""


def grounded(case: Case, answer: Answer) -> Score:
    """Share of the answer's claims that the passages support; None without passages or claims.

    A claim is supported if the passages or the customer state its figures, names and quoted words, and some passage
    holds at least half of its other words. Words are not compared with a passage in another language.
    """
    claimed = claims(answer.text)
    if not answer.passages or not claimed:
        return Score(None)
    passages = [f"{shown.heading}\n{shown.text}" for shown in answer.passages]
    asked = _asked(case)
    known = figures(asked).union(*map(figures, passages))
    faults = [(claim, _fault(claim, passages, asked, known)) for claim in claimed]
    wrong = [(claim, fault) for claim, fault in faults if fault]
    evidence = f'"{_shown(wrong[0][0])}" {wrong[0][1]}' if wrong else ""
    return Score((len(claimed) - len(wrong)) / len(claimed), evidence)


def entailments(cases: Sequence[Case], answers: Sequence[Answer], model: str, progress: bool = False) -> list[Score]:
    """Share of each answer's claims that a passage, or what the customer said, entails, by a cross-encoder for NLI.

    `model` is a folder or a hub id with a label `entailment`, such as cross-encoder/nli-deberta-v3-small.

    Raises:
        ModelError: `model` cannot be loaded, or has no such label.
    """
    claimed = [claims(answer.text) if answer.passages else [] for answer in answers]
    pairs = [
        (premise, claim)
        for case, answer, said in zip(cases, answers, claimed, strict=True)
        for claim in said
        for premise in _premises(case, answer)
    ]
    entailed = iter(_entailed(pairs, model, progress) if pairs else ())
    return [
        _share(said, [any([next(entailed) for _ in _premises(case, answer)]) for _ in said])
        for case, answer, said in zip(cases, answers, claimed, strict=True)
    ]


def _fault(claim: str, passages: Sequence[str], asked: str, known: frozenset[Figure]) -> str:
    """What of a claim nobody states, for people; nothing if it is grounded."""
    invented = unsupported(claim, known)
    if invented:
        return f"states {redact(', '.join(invented))}, which no passage does"
    rest = claim
    for figure in unsupported(claim, frozenset()):
        rest = rest.replace(figure, " ", 1)
    held = normalised(" ".join([asked, *passages]))
    unknown = [term for term in _terms(rest) if normalised(term) not in held]
    if unknown:
        return f"names {redact(unknown[0])}, which no passage does"
    rest = NUMBER.sub(lambda number: " " if number[0] in numbers(asked) else number[0], rest)
    too_short = len(words(claim)) < LEAST_WORDS or not words(rest)
    if too_short or language_of(" ".join(passages)) != language_of(claim):
        return ""
    best = max(overlap(rest, passage) for passage in passages)
    return "" if best >= LEAST_OVERLAP else f"shares only {best:.0%} of its words with a passage"


def _terms(claim: str) -> list[str]:
    """The names and quoted words of a claim; of the quoted path "Me > Payments" each step."""
    quoted = [step.strip() for match in _QUOTED.findall(claim) for term in match for step in term.split(">")]
    return [*filter(None, quoted), *(name.strip() for name in _NAME.findall(_QUOTED.sub(" ", claim)))]


def _asked(case: Case) -> str:
    return "\n".join(message["content"] for message in case.conversation() if message["role"] == "user")


def _premises(case: Case, answer: Answer) -> list[str]:
    return [*(f"{shown.heading}\n{shown.text}" for shown in answer.passages), _asked(case)]


def _share(claimed: Sequence[str], entailed: Sequence[bool]) -> Score:
    if not claimed:
        return Score(None)
    wrong = [claim for claim, held in zip(claimed, entailed, strict=True) if not held]
    evidence = f'"{_shown(wrong[0])}" follows from no passage' if wrong else ""
    return Score((len(claimed) - len(wrong)) / len(claimed), evidence)


def _entailed(pairs: Sequence[tuple[str, str]], model: str, progress: bool) -> list[bool]:
    encoder, entailment = _cross_encoder(model)
    scores = encoder.predict(list(pairs), show_progress_bar=progress)
    return [int(row.argmax()) == entailment for row in scores]


@functools.lru_cache(maxsize=1)
def _cross_encoder(model: str) -> "tuple[CrossEncoder, int]":
    """The model, loaded once for all arms, and the place of its label `entailment`."""
    from sentence_transformers import CrossEncoder

    try:
        encoder = CrossEncoder(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"NLI model {model!r} cannot be loaded as a cross-encoder: {str(error).splitlines()[0].rstrip('.')}. "
            "Give a folder or a hub id, or none"
        ) from error
    labels = {str(label).lower(): int(n) for n, label in encoder.config.id2label.items()}
    if "entailment" not in labels:
        raise ModelError(
            f"NLI model {model!r} has the labels {', '.join(labels)} and no 'entailment'; "
            "give a cross-encoder trained for NLI, such as cross-encoder/nli-deberta-v3-small"
        )
    return encoder, labels["entailment"]


def _shown(claim: str) -> str:
    plain = redact(claim.strip())
    return plain if len(plain) <= _LONGEST_SHOWN else f"{plain[:_LONGEST_SHOWN].rstrip()}…"
