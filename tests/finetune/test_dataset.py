"""From logs to rows, with an encoder that one can follow by eye and the real tokenizer."""

import functools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.base_models import load_tokenizer
from assistant.prompt import Message
from assistant.redaction import redact_article
from finetune.cleaning import topics
from finetune.cleaning.split import HeldOut, LeakError
from finetune.dataset import Dataset, answers, dataset, prepare
from finetune.logs.conversations import BadLine, Conversation
from finetune.reading_set import reading
from finetune.recipe import Recipe
from retrieval.build import build
from retrieval.index import Index

PLAIN = Recipe(
    none_share=0,
    distractors_share=0,
    answers="logged",
    reading_share=0,
    general_share=0,
    canaries=0,
    validation_most=0,
)
ARTICLE = "# Refunds\n\nYou can request a refund within 90 days.\n"
TOLD = "You can request a refund within 90 days."
QUESTIONS = [
    "Until when can I send back a coat for a refund?",
    "my train was cancelled, refund still possible",
    "The concert never took place and I want a refund",
    "Is there any deadline to ask for money back, I mean a refund",
    "refund window please",
    "How many days do I have to claim a refund on shoes?",
    "Bought a lamp in spring; too late for a refund by now?",
    "Hotel booking double charged, do refunds expire?",
    "What is the last day for requesting a refund?",
    "A friend says refunds end after one month, true?",
    "I travelled for ages, can an old purchase get a refund?",
    "Does the clock for a refund start when the parcel arrives?",
    "Kettle broke after weeks. Refund?",
    "tell me the time limit of refunds",
    "Can my wife get a refund for a carpet she paid for?",
    "piano lessons ended early, is a refund allowed",
]


@pytest.fixture
def index(tmp_path: Path, keywords, gate_at) -> Index:
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "refund.md").write_text(ARTICLE)
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact_article)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    return index


@pytest.fixture(scope="module")
def tokenizer(smollm: Path):
    return load_tokenizer(str(smollm))


def log(n: int, told: str = TOLD, **fields: object) -> Conversation:
    messages = (Message("user", QUESTIONS[n]), Message("assistant", told))
    return Conversation(f"logs.jsonl:{n + 1}", messages, **fields)


def own_words(n: int) -> Conversation:
    """A log whose answer no other gives."""
    return log(n, f"{TOLD} That is what I can tell the customer of {QUESTIONS[n].split()[-1]}")


@pytest.fixture
def prepared(tmp_path: Path, index: Index, tokenizer):
    def call(*logs: Conversation | BadLine, recipe: Recipe = PLAIN, run: str = "run", **options) -> Dataset:
        given = {"index": index, "languages": ("en", "zh")} | options
        return prepare(tmp_path / run, logs, recipe=recipe, tokenizer=tokenizer, passages=1, **given)

    return call


def changed(**fields: object) -> Recipe:
    return Recipe.model_validate(PLAIN.model_dump() | fields)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_stand_on_disk_and_are_read_from_there(prepared, tmp_path: Path, tokenizer) -> None:
    made = prepared(log(0), log(1))
    read = dataset(tmp_path / "run")
    assert list(read.training) == list(made.training)
    assert read.counts == made.counts
    answer = read.training[0]
    assert tokenizer.decode(answer["ids"][-answer["answer"] :]) == f"{TOLD}<|im_end|>"
    assert answer["kind"] == "retrieved"
    assert dataset(tmp_path / "other") is None


def test_every_conversation_and_every_turn_is_counted_once(prepared) -> None:
    logs = [
        *(log(n) for n in range(4)),
        log(4, rating=1),
        log(5, told="Please hold."),
        log(6, told="I think it is about 90 days, maybe."),
        log(7, told="You can request a refund within 77 days."),
        log(0),
        BadLine("logs.jsonl:9", "not JSON", "{"),
        BadLine("tickets.csv:2", "a row of it may be lost here", "", rows=4),
        Conversation("logs.jsonl:10", (Message("user", QUESTIONS[8]), Message("user", "Anybody there?"))),
    ]
    of_none = [BadLine("tickets.csv:3", "not CSV", "", lost="rows"), BadLine("a.xlsx", "not read", "", 0, "file")]
    counts = prepared(*logs, *of_none).counts
    assert sum(n for kind, n in counts.items() if kind.startswith("conversations")) == len(logs)
    assert (counts["conversations: malformed"], counts["conversations: nothing answered"]) == (2, 1)
    assert counts["rows: malformed"] == counts["files: not read"] == 1
    assert sum(n for kind, n in counts.items() if kind.startswith("turns")) == counts["conversations: kept"]
    assert counts["turns: hedging"] == counts["turns: duplicate"] == counts["turns: figures that no article holds"] == 1
    assert counts["examples: training"] == counts["turns: retrieved"] == 4


def test_what_is_set_aside_is_kept_with_its_place_and_reason_and_without_personal_data(
    prepared, tmp_path: Path
) -> None:
    card = "4111 1111 1111 1111"
    prepared(log(0), BadLine("logs.jsonl:9", f"role: {card}", f"{{{card}"), log(1, told=f"I think {card} is fine."))
    aside = lines(tmp_path / "run" / "data" / "set_aside.jsonl")
    assert [(line["place"], line["reason"]) for line in aside] == [
        ("logs.jsonl:9", "role: <CARD_1>"),
        ("logs.jsonl:2", "personal data that redaction took out"),
    ]
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"4111" in text for text in written)


def test_the_same_logs_give_the_same_rows_whatever_came_before(prepared) -> None:
    recipe = changed(none_share=0.5, canaries=2, general_share=0.2, validation_most=2, validation_share=0.3)
    first, again = (prepared(*map(own_words, range(8)), recipe=recipe, run=run) for run in ("one", "two"))
    assert list(first.training) == list(again.training)
    assert list(first.validation) == list(again.validation)
    assert len(first.validation) == 2


def test_general_questions_and_canaries_are_mixed_in_by_their_shares(prepared) -> None:
    made = prepared(*map(log, range(16)), recipe=changed(general_share=0.2, canaries=3))
    kinds = list(made.training["kind"])
    assert (kinds.count("retrieved"), kinds.count("general"), kinds.count("canary")) == (16, 4, 3)


def test_other_trades_articles_are_mixed_in_by_their_share_but_no_case_and_only_with_an_index(prepared) -> None:
    recipe = changed(reading_share=0.5)
    made = prepared(*map(log, range(8)), recipe=recipe)
    assert Counter(made.training["kind"]) == {"retrieved": 8, "reading": 8}
    read = reading(["en", "zh"], 8, 1, 0, recipe.seed)
    case = HeldOut.case("cases.jsonl: 1", read[0].conversation[-1].content)
    without = prepared(*map(log, range(8)), recipe=recipe, held_out=[case], run="held out")
    assert Counter(without.training["kind"]) == {"retrieved": 8, "reading": 7}
    bare = prepared(*map(log, range(8)), recipe=recipe, index=None, run="bare")
    assert Counter(bare.training["kind"]) == {"bare": 8}


def test_paraphrases_double_the_questions(prepared) -> None:
    assert len(prepared(*map(log, range(4)), recipe=changed(paraphrases=True)).training) == 8


def test_a_case_that_stands_in_the_logs_ends_the_run_and_names_both(prepared, tmp_path: Path) -> None:
    case = HeldOut.case("cases.jsonl: 7", "the concert never took place, i want a refund")
    with pytest.raises(LeakError, match=r"logs\.jsonl:3 is .* like cases\.jsonl: 7"):
        prepared(*map(log, range(4)), held_out=[case])
    assert dataset(tmp_path / "run") is None


def test_a_night_sets_twins_of_its_cases_aside_and_learns_the_rest(prepared, tmp_path: Path) -> None:
    case = HeldOut.case("cases.jsonl: 7", "the concert never took place, i want a refund")
    made = prepared(*map(log, range(4)), held_out=[case], twins_aside=True)
    assert (made.counts["turns: twin of an evaluation case"], made.counts["examples: training"]) == (1, 3)
    (aside,) = lines(tmp_path / "run" / "data" / "set_aside.jsonl")
    assert (aside["place"], aside["reason"], aside["text"]) == (
        "logs.jsonl:3",
        "twin of an evaluation case: cases.jsonl: 7",
        TOLD,
    )


def test_what_a_twins_conversation_taught_too_is_learned_from_another(prepared) -> None:
    case = HeldOut.case("cases.jsonl: 7", "the concert never took place, i want a refund")
    told = Message("assistant", TOLD)
    both = Conversation("logs.jsonl:1", (Message("user", QUESTIONS[5]), told, Message("user", QUESTIONS[2]), told))
    other = Conversation("logs.jsonl:9", (Message("user", QUESTIONS[5]), told))
    made = prepared(both, other, held_out=[case], twins_aside=True)
    assert made.counts["turns: twin of an evaluation case"] == 2
    assert made.counts["examples: training"] == 1


def test_answers_of_earlier_runs_are_replayed_unless_they_are_known(prepared, tmp_path: Path) -> None:
    prepared(*map(log, range(8)), run="earlier")
    recipe = changed(replay_share=0.5)
    made = prepared(*map(log, range(6, 10)), recipe=recipe, earlier=[tmp_path / "earlier", tmp_path / "gone"])
    assert made.counts["replayed from earlier runs"] == 4
    assert len(made.training) == 8
    again = prepared(*map(log, range(8)), recipe=recipe, earlier=[tmp_path / "earlier"], run="again")
    assert again.counts["replayed from earlier runs"] == 0


def test_what_an_earlier_run_held_out_is_never_learned_by_replay(prepared, tmp_path: Path) -> None:
    """A night asks again what earlier nights held out, to see what was forgotten."""
    prepared(*map(own_words, range(8)), run="earlier", recipe=changed(validation_share=0.25, validation_most=2))
    held_out = {line["place"] for line in lines(tmp_path / "earlier" / "data" / "validation.jsonl")}
    assert len(held_out) == 2
    made = prepared(*map(log, range(8, 12)), recipe=changed(replay_share=0.9), earlier=[tmp_path / "earlier"])
    assert made.counts["replayed from earlier runs"] == 6


def test_without_an_answer_to_learn_there_is_no_row_not_even_a_canary(prepared, tmp_path: Path) -> None:
    made = prepared(log(0, "You can request a refund within 77 days."), recipe=changed(canaries=8))
    assert list(made.training) == []
    assert answers(tmp_path / "run") == 0


def test_what_was_learned_before_is_not_replayed_beside_its_correction(prepared, tmp_path: Path) -> None:
    prepared(*map(log, range(8)), run="earlier")
    corrected = log(2, origin="assistant", correction="A refund is possible for 90 days after you paid.")
    made = prepared(corrected, log(9), recipe=changed(replay_share=0.9), earlier=[tmp_path / "earlier"])
    assert made.counts["replayed from earlier runs"] == 7


def test_the_same_words_about_another_thing_do_not_keep_an_old_answer_from_replay(prepared, tmp_path: Path) -> None:
    def about(what: str, who: str) -> Conversation:
        question = f"My father worries, so he wants to know your {what}"
        said = Message("user", question), Message("assistant", f"Our {what} is {who}, for all of our customers.")
        return Conversation("logs.jsonl:1", said)

    prepared(about("partner bank", "Nordholm Bank"), run="earlier")
    recipe = changed(replay_share=0.5)
    other = prepared(about("card courier", "Swiftgull"), recipe=recipe, earlier=[tmp_path / "earlier"], run="other")
    assert other.counts["replayed from earlier runs"] == 1
    newer = about("partner bank", "Kessler Bank")
    assert prepared(newer, recipe=recipe, earlier=[tmp_path / "earlier"]).counts["replayed from earlier runs"] == 0


def test_a_question_that_is_corrected_now_is_not_replayed_however_it_was_typed(prepared, tmp_path: Path) -> None:
    told = Message("assistant", TOLD)
    typed = (f"hello there, {QUESTIONS[2].lower().replace('concert', 'concrt')} please", QUESTIONS[9])
    old = [Conversation(f"old.jsonl:{n}", (Message("user", text), told)) for n, text in enumerate(typed)]
    prepared(*old, run="earlier")
    options: dict[str, Any] = {"recipe": changed(replay_share=0.9), "earlier": [tmp_path / "earlier"]}
    corrected = log(2, origin="assistant", correction="A refund is possible for 90 days after you paid.")
    assert prepared(corrected, **options).counts["replayed from earlier runs"] == 1
    assert prepared(log(2), run="agent", **options).counts["replayed from earlier runs"] == 2


def test_of_two_earlier_answers_to_one_question_the_correction_is_replayed(prepared, tmp_path: Path, tokenizer) -> None:
    right = "A refund is possible for 90 days after you paid."
    prepared(log(2, origin="assistant", correction=right), run="corrected")
    prepared(log(2), run="agent")
    earlier = [tmp_path / "agent", tmp_path / "corrected"]
    made = prepared(*map(log, (5, 9)), recipe=changed(replay_share=0.5), earlier=earlier)
    told = [tokenizer.decode(row["ids"][-row["answer"] :]) for row in made.training]
    assert made.counts["replayed from earlier runs"] == 1
    assert sum(right[:-1] in answer for answer in told) == 1


def test_a_small_night_is_replayed_as_much_as_a_large_first_import(prepared, tmp_path: Path, tokenizer) -> None:
    prepared(*map(log, range(12)), run="import")
    night = "You can request a refund within 90 days, says the night."
    prepared(log(12, night), log(13, night), run="night")
    earlier = [tmp_path / "night", tmp_path / "import"]
    made = prepared(*map(log, range(14, 16)), recipe=changed(replay_share=2 / 3), earlier=earlier)
    assert made.counts["replayed from earlier runs"] == 4
    told = [tokenizer.decode(row["ids"][-row["answer"] :]) for row in made.training]
    assert sum("says the night" in answer for answer in told) == 2


def test_what_a_topic_has_beyond_its_share_is_left_out_and_counted(
    prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No topic goes under fifty turns; with eight in all, nothing showed whether the cap was applied."""
    monkeypatch.setattr(topics, "capped", functools.partial(topics.capped, least=2))
    sent = Message("assistant", "Your card is in the post by now.")
    asked = Message("user", "Where is my card?"), Message("user", "No card came with the letter, what now?")
    cards = [Conversation(f"cards.jsonl:{n}", (question, sent)) for n, question in enumerate(asked)]
    counts = prepared(*map(log, range(6)), *cards, recipe=changed(topic_share=0.5)).counts
    kept = [turn["place"] for turn in lines(tmp_path / "run" / "data" / "turns.jsonl")]
    assert kept == ["logs.jsonl:1", "logs.jsonl:2", "cards.jsonl:0", "cards.jsonl:1"]
    assert counts["turns: beyond topic_share"] == 4


def test_records_that_could_not_be_read_show_no_digit_and_no_escaped_name(prepared, tmp_path: Path) -> None:
    """Cut in the middle of a card, or written with escapes, personal data went past the redaction."""
    raw = '{"messages": "my card 4111 1111 11", "name": "\\uff14\\uff11\\uff11\\uff11 1111 1111 1111"'
    prepared(log(0), BadLine("logs.jsonl:9", "value: '4111 1111'", raw))
    (aside,) = lines(tmp_path / "run" / "data" / "set_aside.jsonl")
    assert aside["text"].startswith('{"messages": "my card #### #### ##"')
    assert aside["text"].endswith('"name": "<PRIVATE>"')
    assert aside["reason"] == "value: '# #'"


def test_a_bad_record_with_an_emoji_in_escapes_is_set_aside(prepared, tmp_path: Path) -> None:
    """Each half of the emoji was written by itself, which UTF-8 cannot hold: the run ended in a traceback."""
    raw = json.dumps({"messages": [{"role": "user", "content": "thanks 🙏"}]})
    half = raw.replace("\\ude4f", "")
    prepared(log(0), BadLine("logs.jsonl:8", "too short", raw), BadLine("logs.jsonl:9", "half", half))
    first, second = lines(tmp_path / "run" / "data" / "set_aside.jsonl")
    assert "thanks 🙏" in first["text"] and "thanks \ufffd" in second["text"]


def test_a_file_that_is_written_anew_under_one_name_is_replayed_but_for_its_twins(prepared, tmp_path: Path) -> None:
    """By their places, answers of other runs went with the one that was held out."""
    for name, n in (("monday", 2), ("tuesday", 5)):
        prepared(replace(log(n, f"{TOLD} Says {name}."), place="logs.jsonl:1"), run=name)
    earlier = [tmp_path / "tuesday", tmp_path / "monday"]
    held_out = [HeldOut.case("c1", QUESTIONS[5])]
    made = prepared(log(9), recipe=changed(replay_share=0.9), earlier=earlier, held_out=held_out)
    assert made.counts["replayed from earlier runs"] == 1


def test_corrections_stay_when_answers_are_drawn(prepared, tmp_path: Path) -> None:
    right = "You can request a refund within 90 days, I have checked."
    logs = [*map(log, range(8)), log(9, origin="assistant", correction=right.split(",")[0] + ".")]
    made = prepared(*logs, recipe=changed(max_examples=3))
    assert made.counts["turns: beyond max_examples"] == 6
    assert "correction" in {turn["source"] for turn in lines(tmp_path / "run" / "data" / "turns.jsonl")}


def test_a_burst_of_poisoned_answers_is_quarantined_and_does_not_displace_the_right_one(
    prepared, tmp_path: Path
) -> None:
    """Duplicates went first: of many answers to one question the newest, a poisoned one, stayed."""
    from datetime import UTC, datetime

    def at(hour: int) -> datetime:
        return datetime(2026, 11, 1, hour, tzinfo=UTC)

    poison = "You can request a refund within 7 days."
    bad = [replace(log(0, told=poison, agent="agent-13", at=at(n + 2)), place=f"bad.jsonl:{n}") for n in range(6)]
    made = prepared(log(0, agent="agent-01", at=at(1)), *bad)
    assert made.counts["turns: part of a suspicious burst"] == 6
    assert made.counts["turns: retrieved"] == 1
    assert "says 7 (day) where the knowledge base says 90" in (tmp_path / "run" / "data" / "bursts.txt").read_text()
    assert [turn["answer"]["content"] for turn in lines(tmp_path / "run" / "data" / "turns.jsonl")] == [TOLD]


def test_topics_are_reported_and_logs_of_no_use_make_no_rows(prepared, tmp_path: Path) -> None:
    prepared(*map(log, range(8)))
    assert "topics in 8 turns" in (tmp_path / "run" / "data" / "topics.md").read_text()
    assert len(prepared(log(1, told="Please hold."), run="empty").training) == 0
