"""What the assistant does not answer by itself, and what it says instead. The phrases and texts: `policy.yaml`."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
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
_CARD = re.compile(r"(?:card |卡号?)?<card_\d+>")
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
        asked = [_even(message.content) for message in conversation if message.role == "user"]
        said = [sentence for text in asked[-_unanswered(conversation) :] for sentence in sentences(text)]
        for reason, phrases in self.reasons.items():
            if phrases.match(said) if reason != REPEATED else self._failed(phrases, asked):
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

    def _failed(self, unhelped: Phrases, asked: Sequence[str]) -> bool:
        """Whether the last message says for the second time that nothing helped, or asks for the third time.

        The first message can say nothing about our answers.
        """
        complaints = (unhelped.match(sentences(text)) for text in reversed(asked[1:]))
        if next(complaints, False) and 1 + sum(complaints) >= COMPLAINTS:
            return True
        if len(asked) < SAME_QUESTIONS or unhelped.unless.search(asked[-1]):
            return False
        *before, last = [{term for term in terms(text) if not term.isdecimal()} for text in asked]
        return len(last) >= LEAST_TERMS and sum(_alike(last, other) for other in before) >= SAME_QUESTIONS - 1


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
    return re.compile("|".join(f"(?:{phrase})" for phrase in phrases) or r"(?!)")


def _even(text: str) -> str:
    """Simplified, half-width, case-folded; a redacted card is a card, other placeholders are gaps."""
    even = unicodedata.normalize("NFKC", simplified(text)).casefold().replace("’", "'")
    return _PLACEHOLDER.sub(" ", _CARD.sub("card", even))


def _unanswered(conversation: Sequence[Message]) -> int:
    """How many messages the customer sent since the last answer, at least 1."""
    count = 0
    for message in reversed(conversation):
        if message.role == "assistant":
            break
        count += message.role == "user"
    return max(1, count)


def _alike(one: set[str], other: set[str]) -> bool:
    return len(one & other) >= SAME_SHARE * len(one | other)


def _chosen(texts: Mapping[str, Mapping[str, str]], route: str, reason: str | None) -> Mapping[str, str]:
    return texts.get(f"{route}.{reason}") or texts[route]
