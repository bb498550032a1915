"""What the assistant does not answer by itself, and what it says instead. The phrases and texts: `policy.yaml`."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from assistant.prompt import Message
from retrieval.errors import InputError
from retrieval.language import Language, sentences, simplified
from retrieval.lexical import terms

if TYPE_CHECKING:
    from assistant.chat import Route

SHIPPED = Path(__file__).parent / "policy.yaml"
REPEATED = "repeated_failure"
"""The reason that looks at all that the customer has said."""
COMPLAINTS = 2
"""Messages saying that the answers do not help, after which a person takes over."""
SAME_QUESTIONS = 3
SAME_SHARE = 0.6
"""Share of the terms of two messages that both hold, from which they ask the same."""
LEAST_TERMS = 2
"""Terms of a message from which it can be told from others."""
_CARD = re.compile(r"(?:card <|卡号<|卡<|<)card_\d+>")
_PLACEHOLDER = re.compile(r"<[a-z]+_\d+>")


def _expression(phrase: str) -> str:
    try:
        re.compile(phrase)
    except re.error as error:
        raise ValueError(f"{phrase!r} is no regular expression: {error}") from None
    return phrase


Phrase = Annotated[str, StringConstraints(min_length=1), AfterValidator(_expression)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Phrases(_Part):
    """One reason or topic. `unless` takes back what the other lists find in the same sentence."""

    en: tuple[Phrase, ...] = ()
    zh: tuple[Phrase, ...] = ()
    unless: tuple[Phrase, ...] = ()


class _Texts(_Part):
    en: Text
    zh: Text


class _File(_Part):
    handoff: dict[str, _Phrases] = {}
    topics: dict[str, _Phrases] = {}
    notices: dict[str, _Texts] = {}
    replies: dict[str, _Texts] = {}


@dataclass(frozen=True)
class Phrases:
    """What gives a reason or a topic away, and what in the same sentence shows that it does not."""

    found: re.Pattern[str]
    unless: re.Pattern[str]

    def match(self, said: Iterable[str]) -> bool:
        """Whether one of the sentences is such."""
        return any(self.found.search(sentence) and not self.unless.search(sentence) for sentence in said)


@dataclass(frozen=True)
class Policy:
    reasons: Mapping[str, Phrases]
    """For handing over, in the order in which they are looked for."""
    topics: Mapping[str, Phrases]
    """Of questions that are never answered without a passage."""
    notices: Mapping[str, Mapping[str, str]]
    """By route, or `handoff.<reason>`, and language."""
    replies: Mapping[str, Mapping[str, str]]

    def handoff(self, conversation: Sequence[Message]) -> str | None:
        """Why a person must take over now; None if none must.

        The conversation is redacted and ends with the customer's message. What the customer said since the last
        answer is judged, and for `repeated_failure` all of it.
        """
        asked = [message.content for message in conversation if message.role == "user"]
        since = [_even(text) for text in asked[-_unanswered(conversation) :]]
        said = [sentence for text in since for sentence in sentences(text)]
        for reason, phrases in self.reasons.items():
            if phrases.match(said) if reason != REPEATED else self._failed(phrases, asked[:-1], since[-1]):
                return reason
        return None

    def needs_passage(self, question: str) -> str | None:
        """The topic of a redacted question that is never answered without a passage; None if it has no such topic."""
        said = sentences(_even(question))
        return next((topic for topic, phrases in self.topics.items() if phrases.match(said)), None)

    def notice(self, route: "Route", language: Language, reason: str | None = None) -> str:
        """How the answer was made, in one sentence for the customer."""
        return _chosen(self.notices, route, reason)[language]

    def reply(
        self, route: Literal["clarify", "refuse", "handoff"], language: Language, reason: str | None = None
    ) -> str:
        """The whole answer where no model writes it."""
        return _chosen(self.replies, route, reason)[language]

    def _failed(self, unhelped: Phrases, before: Sequence[str], last: str) -> bool:
        """Whether the last message says for the second time that nothing helped, or asks for the third time.

        The first message can say nothing about our answers.
        """
        if before and unhelped.match(sentences(last)):
            complaints = 1 + sum(unhelped.match(sentences(_even(text))) for text in before[1:])
            if complaints >= COMPLAINTS:
                return True
        if len(before) < SAME_QUESTIONS - 1 or unhelped.unless.search(last):
            return False
        asked = _asked(last)
        return len(asked) >= LEAST_TERMS and sum(_asks(_even(text), asked) for text in before) >= SAME_QUESTIONS - 1


def read_policy(path: Path | None = None) -> Policy:
    """The shipped policy; what `path` says, entry by entry, goes before it.

    Raises:
        InputError: The file is missing, is not YAML, or an entry of it is not what it should be.
    """
    shipped, own = _read(SHIPPED), _read(path) if path else _File()
    return Policy(
        reasons={name: _compiled(phrases) for name, phrases in (shipped.handoff | own.handoff).items()},
        topics={name: _compiled(phrases) for name, phrases in (shipped.topics | own.topics).items()},
        notices={name: texts.model_dump() for name, texts in (shipped.notices | own.notices).items()},
        replies={name: texts.model_dump() for name, texts in (shipped.replies | own.replies).items()},
    )


def _read(path: Path) -> _File:
    try:
        loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"policy {path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return _File.model_validate({} if loaded is None else loaded)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])
        raise InputError(f"policy {path} entry {entry!r}: {first['msg']}; see {SHIPPED} for the form") from None


def _compiled(phrases: _Phrases) -> Phrases:
    return Phrases(_any_of((*phrases.en, *phrases.zh)), _any_of(phrases.unless))


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    # Those of words by themselves: re then tries them where words start only, which is several times faster.
    of_words = [phrase for phrase in phrases if phrase.startswith(r"\b")]
    others = [phrase for phrase in phrases if not phrase.startswith(r"\b")]
    return re.compile("|".join(f"(?:{'|'.join(some)})" for some in (of_words, others) if some) or r"(?!)")


def _even(text: str) -> str:
    """Simplified, half-width, case-folded; a redacted card is a card, other placeholders are gaps."""
    even = simplified(unicodedata.normalize("NFKC", text)).casefold().replace("’", "'")
    return _PLACEHOLDER.sub(" ", _CARD.sub("card", even) if "<card_" in even else even)


def _unanswered(conversation: Sequence[Message]) -> int:
    """How many messages the customer sent since the last answer, at least 1."""
    count = 0
    for message in reversed(conversation):
        if message.role == "assistant":
            break
        count += message.role == "user"
    return max(1, count)


def _asked(even: str) -> set[str]:
    """The terms of a message that tell what it asks."""
    return {term for term in terms(even) if not term.isdecimal()}


def _asks(even: str, asked: Set[str]) -> bool:
    """Whether a message asks the same as one of the terms `asked`."""
    # Stemming changes no more than the last two letters, so most messages need not be stemmed.
    if sum((term if term >= "\u3400" else term[:-2]) in even for term in asked) < SAME_SHARE * len(asked):
        return False
    other = _asked(even)
    return len(asked & other) >= SAME_SHARE * len(asked | other)


def _chosen(texts: Mapping[str, Mapping[str, str]], route: str, reason: str | None) -> Mapping[str, str]:
    return texts.get(f"{route}.{reason}") or texts[route]
