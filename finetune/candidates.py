"""Candidate cases for the evaluation, for people to check: what customers asked, as agents answered it.

logs → redacted → rules → bursts → as training cleans them
  → near duplicates once; twins of what a training run learned left out
  → the article that supports the answer, its figures as facts → a case, with a note on what to check
articles without a case, topics with few → a list of what people should write
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from assistant import releases
from assistant.figures import figures, figures_of_passage, unsupported
from assistant.live_index import open_live
from assistant.prompt import Message, search_query
from assistant.settings import Settings
from eval.cases import Case, CaseMessage
from finetune import dataset
from finetune.adapter import record_of
from finetune.cleaning import bursts, duplicates, learnable, quality, topics
from finetune.cleaning.split import HeldOut, without_twins
from finetune.examples import supporting
from finetune.logs import BadLine, Columns, Conversation, read_logs
from finetune.turns import Turn
from retrieval.errors import InputError
from retrieval.files import content_id, write_text
from retrieval.index import Index, Query
from retrieval.language import Language, language_of, sentences
from retrieval.passages import Passage

FEW = 5
"""Candidates of a topic under which people are asked to write more."""
LANGUAGES: tuple[Language, ...] = ("en", "zh")
_CHECK = "check that the question stands alone, the reference is right today, and each fact must stand in any answer"


@dataclass(frozen=True)
class Candidate:
    case: Case
    note: str
    """What a person must check."""
    place: str
    """file:line of the log."""


@dataclass(frozen=True)
class Covered:
    """A topic of the logs."""

    label: str
    questions: int
    """Different ones in the logs, twins of training among them."""
    candidates: int


@dataclass(frozen=True)
class Candidates:
    found: tuple[Candidate, ...]
    topics: tuple[Covered, ...]
    uncovered: dict[str, str]
    """Title by path of the articles that no candidate is about; entries of a list are one, under their file's path."""
    counts: dict[str, int]
    """What became of the logs, and of each answer in them."""


def propose(
    settings: Settings,
    logs: Sequence[Path],
    out: Path,
    say: Callable[[str], None],
    training: str | None = None,
    limit: int | None = None,
    seed: int = 7,
    force: bool = False,
    columns: Columns | None = None,
) -> None:
    """Write candidates out of `logs`, by the live index, to `out`; what `assistant evaluate cases` does.

    `training` is a run whose questions are left out, by default the live adapter's; `none` leaves out no run's.

    Raises:
        InputError: A file exists and `force` is not given, a log cannot be read, there is no such run, or no case.
        NotReady: There is no index yet.
        StorageError: The disk refused.
    """
    _checked(out, force)
    trained_on = [] if training == "none" else learned(settings, training)
    if not trained_on:
        say("compared with no training run: a candidate may be what an adapter was trained on")
    made = candidates(read_logs(logs, columns), open_live(settings), settings.passages, trained_on, limit, seed)
    todo = write(made, out, force)
    for kind, count in made.counts.items():
        say(f"  {count:6} {kind}")
    say(f"candidates for people to check: {out}; what is left to write: {todo}")


def candidates(
    logs: Iterable[Conversation | BadLine],
    index: Index,
    passages: int,
    trained_on: Sequence[Turn] = (),
    limit: int | None = None,
    seed: int = 7,
) -> Candidates:
    """Cases out of the logs: at most `limit`, drawn by `seed`. `passages` is how many the serving prompt carries.

    Raises:
        InputError: A log cannot be read, or no answer in them makes a case.
    """
    counts: Counter[str] = Counter()
    turns = _once(_worth_asking(logs, index, passages, counts), counts)
    found = topics.topics(turns, index.encoder.queries) if turns else []
    topic_of = {id(turns[i]): topic.label for topic in found for i in topic.members}
    kept = _untrained(turns, trained_on, counts)
    if not kept:
        told = "; ".join(f"{count} {kind}" for kind, count in counts.items()) or "they are empty"
        raise InputError(f"no answer in the logs makes a case ({told}); give logs that are newer than the training")
    if limit is not None and limit < len(kept):
        counts["answers: beyond the limit"] = len(kept) - limit
        kept = [kept[i] for i in sorted(random.Random(seed).sample(range(len(kept)), limit))]
    made = [
        candidate(turn, index, passages, topic_of[id(turn)], bool(trained_on))
        for turn in tqdm(kept, "finding articles", unit="answer", disable=None)
    ]
    counts["candidates"] = len(made)
    counts["candidates: without an article"] = sum(not candidate.case.relevant for candidate in made)
    of_topic = Counter(candidate.case.topic for candidate in made)
    return Candidates(
        found=tuple(made),
        topics=tuple(Covered(topic.label, topic.size, of_topic[topic.label]) for topic in found),
        uncovered=_uncovered(index, made),
        counts=dict(counts),
    )


def learned(settings: Settings, run: str | None = None) -> list[Turn]:
    """The answers that a training run learned from or was validated on; by default the live adapter's, if one is.

    What it replayed of earlier runs, or began with, stands in the data of those.

    Raises:
        InputError: There is no such run, or its data were deleted.
    """
    if run is None:
        adapter = releases.live(settings.releases).adapter
        if adapter is None:
            return []
        run = str(record_of(settings.adapters, adapter).get("run"))
    path = settings.runs / run / dataset.FOLDER / "turns.jsonl"
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, so nothing tells what training run {run!r} learned; name another run under "
            f"{settings.runs} with --training, or --training none to compare with no run"
        )
    return dataset.turns_of(settings.runs / run)


def write(made: Candidates, out: Path, force: bool = False) -> Path:
    """Write the cases to `out`, and what people should write to the file beside it that is returned.

    Raises:
        InputError: One of the files exists; with `force` both are replaced.
        StorageError: The disk refused.
    """
    todo = _checked(out, force)
    write_text(todo, _todo(made))
    write_text(out, (_line(candidate) for candidate in made.found))
    return todo


def _checked(out: Path, force: bool) -> Path:
    """The file beside `out`; raises as `write` does."""
    todo = out.with_name(f"{out.name}.todo.md")
    for path in (out, todo):
        if path.exists() and not force:
            raise InputError(f"{path} exists, and may have been edited; give another --out, or --force to replace it")
    return todo


def _worth_asking(
    logs: Iterable[Conversation | BadLine], index: Index, passages: int, counts: Counter[str]
) -> list[Turn]:
    """The answers that training would learn from, in both languages, redacted; none that calls tools."""
    found = []
    authors: dict[str, str] = {}
    for entry in logs:
        if isinstance(entry, BadLine):
            counts.update(entry.counts)
            continue
        for turn in learnable.turns(entry, counts, authors):
            fault = quality.fault(turn, LANGUAGES) or _unaskable(turn)
            if fault:
                counts[f"answers: {fault}"] += 1
            else:
                found.append(turn)
    canned = quality.canned(found)
    told = [turn for turn in found if duplicates.answered(turn) not in canned]
    counts["answers: canned"] = len(found) - len(told)

    def contradicts(turn: Turn) -> str | None:
        return bursts.contradiction(turn, [each.passage.text for each in index.search(turn.question, passages).found])

    suspect = {turn.place for burst in bursts.bursts(told, contradicts) for turn in burst.turns}
    kept = [turn for turn in told if turn.place not in suspect]
    counts["answers: part of a suspicious burst"] = len(told) - len(kept)
    counts["answers from logs"] = len(kept)
    return kept


def _unaskable(turn: Turn) -> str | None:
    """Why a case cannot hold the conversation; None if it can."""
    if turn.answer.tool_calls or any(message.role == "tool" or message.tool_calls for message in turn.conversation):
        return "with tools"
    return None


def _once(turns: Sequence[Turn], counts: Counter[str]) -> list[Turn]:
    """One answer of each group of near duplicates, the one that training would prefer; in the order given."""
    best: dict[int, Turn] = {}
    for group, turn in zip(duplicates.groups(turns), turns, strict=True):
        best[group] = min(best.get(group, turn), turn, key=duplicates.preference)
    counts["answers: near duplicates"] = len(turns) - len(best)
    chosen = {id(turn) for turn in best.values()}
    return [turn for turn in turns if id(turn) in chosen]


def _untrained(turns: Sequence[Turn], trained_on: Sequence[Turn], counts: Counter[str]) -> list[Turn]:
    """The turns whose questions are no twins of what was learned; its answers a case may have."""
    kept = without_twins(turns, [HeldOut(turn.place, duplicates.asked(turn)) for turn in trained_on])
    counts["answers: twins of training"] = len(turns) - len(kept)
    return kept


def candidate(turn: Turn, index: Index, passages: int, topic: str, compared: bool) -> Candidate:
    """The case that a logged answer makes; `compared`: it is known that no training saw it."""
    said = [message for message in turn.conversation if message.role in ("user", "assistant")]
    answer = turn.answer.content
    told = quality.core(answer)
    article, notes = _article(turn, told, index, passages)
    unknown = article is None and quality.abstains(answer)
    stated = (figure for sentence in sentences(told) for figure in unsupported(sentence, frozenset()))
    facts = () if unknown else tuple(dict.fromkeys(stated))  # else those of the way to a person
    own = [fact for fact in facts if not unsupported(fact, figures(" ".join(message.content for message in said)))]
    if own:
        notes.append(f"the conversation states {', '.join(own)} itself: a fact only if a right answer says it again")
    alone, follows = len(said) == 1, sum(message.role == "user" for message in said) > 1
    case = Case(
        id=f"log/{content_id(*(message.content for message in said))}",
        query=said[0].content if alone else None,
        messages=() if alone else tuple(CaseMessage(role=_role(message), content=message.content) for message in said),
        lang=language_of(turn.question),
        scope="in" if article else "near",
        relevant=(article.path,) if article else (),
        reference=answer,
        facts=facts,
        answerable=article is not None,
        slice="multi-turn" if follows else "hit" if article else "miss",
        topic=topic,
        group=article.article if article else None,
        held_out="wording" if compared else None,
    )
    return Candidate(case, "; ".join([*notes, _CHECK]), turn.place)


def _role(message: Message) -> Literal["user", "assistant"]:
    return "user" if message.role == "user" else "assistant"


def _article(turn: Turn, told: str, index: Index, passages: int) -> tuple[Passage | None, list[str]]:
    """The passage whose article supports what the answer told, figures and all; None with the reason for a note."""
    language = language_of(turn.question)
    support = supporting(turn.answer.content, index.search(search_query(turn.conversation), passages, language))
    if support is None:
        asked = Query(f"{turn.question} {turn.answer.content}")
        support = supporting(turn.answer.content, index.search(asked, passages, language))
    article = index.article(support.path) if support else None
    if support is None or article is None:
        if quality.abstains(turn.answer.content):
            return None, ["the agent found no article: check that there is none by now"]
        return None, ["no article was found that supports the answer: name it in relevant and set answerable and slice"]
    known = figures_of_passage(f"{article.title}\n{article.text}")
    known |= figures(" ".join(message.content for message in turn.conversation))
    if missing := unsupported(told, known):
        return None, [f"{article.path} supports the answer but not {', '.join(missing)}: which of the two is right?"]
    return support, []


def _uncovered(index: Index, made: Sequence[Candidate]) -> dict[str, str]:
    covered = {path.partition("#")[0] for candidate in made for path in candidate.case.relevant}
    entries = Counter(path.partition("#")[0] for path in index.paths())
    titles = {}
    for path in sorted(entries.keys() - covered):
        article = index.article(path)
        titles[path] = article.title if article else f"{entries[path]} entries"
    return titles


def _line(candidate: Candidate) -> str:
    """The case with its note, which `read_cases` ignores."""
    case = candidate.case.model_dump(exclude_none=True, exclude={"messages"} if candidate.case.query else None)
    return json.dumps(case | {"note": candidate.note, "place": candidate.place}, ensure_ascii=False) + "\n"


def _todo(made: Candidates) -> str:
    """What the candidates leave out, as Markdown."""
    few = [topic for topic in made.topics if topic.candidates < FEW]
    return "\n".join(
        [
            "# Cases to write by hand",
            "",
            f"{len(made.found)} candidates came from the logs. Each has a `note` on what to check; it may stay.",
            "",
            f"## {len(made.uncovered)} articles without a candidate",
            "",
            *(f"- `{path}`: {' '.join(title.split())}" for path, title in made.uncovered.items()),
            "",
            f"## {len(few)} topics with fewer than {FEW} candidates",
            "",
            "| topic | questions in the logs | candidates |",
            "|---|---:|---:|",
            *(f"| {topic.label} | {topic.questions} | {topic.candidates} |" for topic in few),
            "",
        ]
    )
