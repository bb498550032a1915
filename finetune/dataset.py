"""From logs to the rows of one run, on disk.

    read → redact → answers → quality → bursts → twins of cases → duplicates → topics → split, leaks
    → examples, those of earlier runs too → token ids

Whatever is not learned from is counted under its reason; what a rule or a suspicion speaks against is kept in
`set_aside.jsonl` for people to look at.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assistant.redaction import redact
from finetune import general_set, reading_set
from finetune.canaries import canaries
from finetune.cleaning import bursts, duplicates, learnable, quality, split, topics
from finetune.cleaning.split import HeldOut
from finetune.examples import LOGGED, Example, examples, paraphrased
from finetune.logs.conversations import BadLine, Conversation
from finetune.nights import Topic
from finetune.recipe import Recipe
from finetune.rows import Row, tokenise
from finetune.turns import SetAside, Turn, turn_of
from retrieval.files import new_folder, storage_errors, write_text
from retrieval.index import Index

FOLDER = "data"
"""Of a run: all that this module writes."""
_TOGETHER = 1000
"""Examples that become rows at once."""
_MOST_CHARACTERS = 300
"""Of a topic's example."""


@dataclass(frozen=True)
class Dataset:
    """The rows of a run, which stay on disk."""

    training: Sequence[Row]
    """A `datasets.Dataset`, or an empty list."""
    validation: Sequence[Row]
    counts: dict[str, int]
    """Conversations, turns and examples by what became of them, and redactions by kind."""


def dataset(run: Path) -> Dataset | None:
    """The rows of a run; None if it has none yet."""
    folder = run / FOLDER
    if not folder.exists():
        return None
    return Dataset(
        rows(run, "training"), rows(run, "validation"), json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    )


def rows(run: Path, name: str) -> Sequence[Row]:
    """The `training` or `validation` rows of a run, mapped from disk; none if it has none."""
    from datasets import load_from_disk

    folder = run / FOLDER / name
    return load_from_disk(str(folder)) if folder.exists() else []


def answers(run: Path) -> int:
    """How many logged answers the run learns from or is validated on, those of earlier runs left out."""
    counts = json.loads((run / FOLDER / "counts.json").read_text(encoding="utf-8"))
    return sum(counts.get(f"turns: {kind}", 0) for kind in LOGGED)


def turns_of(run: Path, name: str = "turns") -> list[Turn]:
    """What a run kept of its logs to learn from, or only those for `validation`; none if it has none."""
    path = run / FOLDER / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [turn_of(json.loads(line)) for line in lines]


def found_topics(run: Path) -> list[Topic]:
    """What customers asked in the logs of a run, redacted, the largest topic first; none if it has none."""
    path = run / FOLDER / "topics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Topic(**json.loads(line)) for line in lines]


def taken_out(counts: dict[str, int]) -> dict[str, int]:
    """Of a run's `counts`: personal values that were `redacted`, of any kind, and answers `quarantined`."""
    return {
        "redacted": sum(count for what, count in counts.items() if what.startswith("redacted: ")),
        "quarantined": counts.get("turns: part of a suspicious burst", 0),
    }


def prepare(
    run: Path,
    logs: Iterable[Conversation | BadLine],
    index: Index | None,
    recipe: Recipe,
    tokenizer: Any,
    languages: Sequence[str],
    passages: int,
    held_out: Sequence[HeldOut] = (),
    earlier: Sequence[Path] = (),
    twins_aside: bool = False,
) -> Dataset:
    """Make the rows of a run, whole or not at all.

    `held_out` are cases that nothing learned may be a twin of: with `twins_aside` such conversations are set aside,
    else they end the run. `earlier` are the folders of runs whose answers may be replayed, newest first.

    Raises:
        InputError: A log cannot be read, or a held-out question has a twin and `twins_aside` is not set.
        StorageError: The disk refused.
    """
    import datasets

    counts: Counter[str] = Counter()
    aside: list[SetAside] = []
    turns = _worth_learning(logs, languages, counts, aside)
    # Before duplicates go: of a hundred poisoned answers to one question the newest would stay.
    turns, suspects = _without_bursts(turns, index, passages, counts, aside)
    if twins_aside:  # before duplicates go: what stays may be the only copy of what a twin's conversation teaches too
        turns = _without_twins(turns, held_out, counts, aside)
    turns = _distinct(turns, counts)
    found = topics.topics(turns, index.encoder.queries) if index and turns else []
    if found:
        below = topics.capped(turns, found, recipe.topic_share)
        counts["turns: beyond topic_share"] = len(turns) - len(below)
        turns = below
    turns = _drawn(turns, recipe, counts)
    groups = duplicates.groups(turns)
    parts = split.split(turns, groups, recipe.validation_share, recipe.validation_most, recipe.seed)
    untimed = sum(turn.at is None for turn in turns)
    if untimed and parts.validation:
        counts["answers without a time, so that not the newest but drawn ones are held out"] = untimed
    validated_on = [HeldOut.turn(turn) for turn in parts.validation]
    split.check_leaks(parts.training, validated_on)
    split.check_leaks(turns, held_out)
    replayed = _replayed(turns, earlier, languages, [*validated_on, *held_out], recipe)

    logged = _examples(parts.training, index, recipe, passages, counts)
    again = _examples(replayed, index, recipe, passages, Counter())
    counts["replayed from earlier runs"] = len(again)
    logged += again
    learned = list(logged)
    if recipe.paraphrases:
        learned += paraphrased(logged, recipe.seed)
    if index:
        learned += _reading(len(learned), recipe, languages, passages, [*validated_on, *held_out])
    learned += _general(len(learned), recipe, languages)
    if logged:
        learned += canaries(recipe.canaries, recipe.seed, tuple(languages))
    validated = _examples(parts.validation, index, recipe, passages, counts)

    datasets.disable_progress_bars()
    with new_folder(run / FOLDER) as folder, storage_errors(run):
        for name, part in (("training", learned), ("validation", validated)):
            made = []
            counts[f"examples: {name}"] = 0
            for start in range(0, len(part), _TOGETHER):  # a row holds ten times less there than as a list
                new, left_out = tokenise(tokenizer, part[start : start + _TOGETHER], recipe.max_tokens)
                counts[f"examples: {name}"] += len(new)
                counts.update({f"examples: {why}": n for why, n in left_out.items()})
                made += [datasets.Dataset.from_list(new)] if new else []
            if made:  # of no rows `datasets` writes what it cannot read
                datasets.concatenate_datasets(made).save_to_disk(str(folder / name))
        _write_lines(folder / "turns.jsonl", (turn.as_dict() for turn in turns))
        _write_lines(folder / "validation.jsonl", (turn.as_dict() for turn in parts.validation))
        _write_lines(folder / "set_aside.jsonl", map(asdict, aside))
        (folder / "topics.md").write_text(topics.report(found), encoding="utf-8")
        _write_lines(folder / "topics.jsonl", (asdict(_as_asked(topic)) for topic in found))
        (folder / "bursts.txt").write_text(bursts.report(suspects), encoding="utf-8")
        write_text(folder / "counts.json", json.dumps(dict(sorted(counts.items())), ensure_ascii=False, indent=1))
    kept = dataset(run)
    assert kept is not None
    return kept


def _as_asked(topic: topics.Topic) -> Topic:
    questions = dict.fromkeys(turn.question[:_MOST_CHARACTERS] for turn in topic.examples)
    return Topic(topic.label, topic.size, list(questions))


def _worth_learning(
    logs: Iterable[Conversation | BadLine], languages: Sequence[str], counts: Counter[str], aside: list[SetAside]
) -> list[Turn]:
    """The answers that no rule speaks against, redacted."""
    found = []
    authors: dict[str, str] = {}
    for entry in logs:
        if isinstance(entry, BadLine):
            counts.update(entry.counts)
            reason = re.sub(r"\d{3,}", "#", redact(entry.reason))  # it may quote what was cut from a number
            aside.append(SetAside(entry.place, reason, learnable.redacted_record(entry.text)))
            continue
        for turn in learnable.turns(entry, counts, authors):
            fault = quality.fault(turn, languages)
            if fault:
                _set_aside(turn, fault, counts, aside)
            else:
                found.append(turn)
    canned = quality.canned(found)
    for turn in found:
        if duplicates.answered(turn) in canned:
            _set_aside(turn, "canned: the same whatever is asked", counts, aside)
    return [turn for turn in found if duplicates.answered(turn) not in canned]


def _set_aside(turn: Turn, reason: str, counts: Counter[str], aside: list[SetAside], more: str = "") -> None:
    counts[f"turns: {reason}"] += 1
    aside.append(SetAside(turn.place, f"{reason}{more}", turn.answer.content[:2000]))


def _distinct(turns: list[Turn], counts: Counter[str]) -> list[Turn]:
    kept = duplicates.distinct(turns)
    counts["turns: duplicate"] = len(turns) - len(kept)
    return kept


def _without_bursts(
    turns: list[Turn], index: Index | None, passages: int, counts: Counter[str], aside: list[SetAside]
) -> tuple[list[Turn], list[bursts.Burst]]:
    """The turns without those of suspicious bursts, and these bursts."""
    found = bursts.bursts(turns, lambda turn: bursts.contradiction(turn, _told(turn, index, passages)))
    suspect = {turn.place for burst in found for turn in burst.turns}
    for turn in turns:
        if turn.place in suspect:
            _set_aside(turn, "part of a suspicious burst", counts, aside)
    return [turn for turn in turns if turn.place not in suspect], found


def _without_twins(
    turns: list[Turn], held_out: Sequence[HeldOut], counts: Counter[str], aside: list[SetAside]
) -> list[Turn]:
    """The turns but those of conversations that repeat a question that is held out."""
    case_of = {leak.place: leak.held_out for leak in split.leaks(turns, held_out)}
    for turn in turns:
        if turn.place in case_of:
            _set_aside(turn, "twin of an evaluation case", counts, aside, f": {case_of[turn.place]}")
    return [turn for turn in turns if turn.place not in case_of]


def _told(turn: Turn, index: Index | None, passages: int) -> list[str]:
    """The passages that the turn's question finds."""
    return [found.passage.text for found in index.search(turn.question, passages).found] if index else []


def _drawn(turns: list[Turn], recipe: Recipe, counts: Counter[str]) -> list[Turn]:
    """At most `max_examples` of the turns, those worth most first, the rest drawn."""
    if recipe.max_examples is None or len(turns) <= recipe.max_examples:
        return turns
    counts["turns: beyond max_examples"] = len(turns) - recipe.max_examples
    chance = random.Random(recipe.seed)
    order = sorted(turns, key=lambda turn: (turn.source == "agent", chance.random()))
    return order[: recipe.max_examples]


def _replayed(
    turns: Sequence[Turn],
    earlier: Sequence[Path],
    languages: Sequence[str],
    held_out: Sequence[HeldOut],
    recipe: Recipe,
) -> list[Turn]:
    """Answers of earlier runs, as many as the recipe's share asks for, drawn from each run in turn.

    None to what customers say in nearly the same words in `turns` (`duplicates.keys`) or in an earlier turn that
    `duplicates.preference` puts first, and none to a question that is corrected now, however it was typed; none that
    the rules speak against, or that is held out, now or in those runs: a night asks that again. Drawn from all at once,
    what a night taught would drown in a first import of years.
    """
    wanted = round(len(turns) * recipe.replay_share / (1 - recipe.replay_share))
    if not wanted:
        return []
    told: list[tuple[Turn, Path]] = []
    for run in earlier:
        held_out = [*held_out, *(replace(HeldOut.turn(turn), answer=None) for turn in turns_of(run, "validation"))]
        told += ((turn, run) for turn in turns_of(run) if not quality.fault(turn, languages))
    told.sort(key=lambda entry: duplicates.preference(entry[0]))
    old = [turn for turn, _ in told]
    corrected = [HeldOut.case(turn.place, turn.question) for turn in turns if turn.source == "correction"]
    repeated = {leak.turn for leak in split.leaks(old, [*held_out, *corrected])}
    keys = duplicates.keys([*turns, *old])
    known = set(keys[: len(turns)])
    left: list[tuple[Turn, Path]] = []
    for i, (entry, key) in enumerate(zip(told, keys[len(turns) :], strict=True)):
        if key not in known and i not in repeated:
            left.append(entry)
        known.add(key)
    return _in_turn(left, recipe.seed)[:wanted]


def _in_turn(turns: Sequence[tuple[Turn, Path]], seed: int) -> list[Turn]:
    """The turns shuffled, then one of each run after another, as long as it has some."""
    drawn: Counter[Path] = Counter()
    rounds: list[tuple[int, Turn]] = []
    for turn, run in random.Random(seed).sample(turns, len(turns)):
        rounds.append((drawn[run], turn))
        drawn[run] += 1
    return [turn for _, turn in sorted(rounds, key=lambda drawn_in: drawn_in[0])]


def _examples(
    turns: Sequence[Turn], index: Index | None, recipe: Recipe, passages: int, counts: Counter[str]
) -> list[Example]:
    made = list(examples(turns, index, recipe, passages))
    counts.update(f"turns: {example.kind}" if example else "turns: figures that no article holds" for example in made)
    return [example for example in made if example]


def _reading(
    others: int, recipe: Recipe, languages: Sequence[str], passages: int, held_out: Sequence[HeldOut]
) -> list[Example]:
    """Questions on other trades' articles, at most as many as there are, and none that is held out."""
    wanted = round(others * recipe.reading_share / (1 - recipe.reading_share))
    made = reading_set.reading(languages, wanted, passages, recipe.distractors_share, recipe.seed)
    turns = [Turn(example.conversation, example.answer, example.passages[0].path) for example in made]
    repeated = {leak.turn for leak in split.leaks(turns, held_out)}
    return [example for i, example in enumerate(made) if i not in repeated]


def _general(others: int, recipe: Recipe, languages: Sequence[str]) -> list[Example]:
    """General instructions in the languages that the base writes, at most as many as there are."""
    known = [question for question in general_set.instructions() if question.lang in languages]
    wanted = round(others * recipe.general_share / (1 - recipe.general_share))
    chosen = random.Random(recipe.seed).sample(known, min(wanted, len(known)))
    return [general_set.asked(question, question.answer) for question in chosen]


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
