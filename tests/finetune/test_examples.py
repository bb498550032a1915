import dataclasses
from pathlib import Path

import pytest

from assistant.prompt import Message
from assistant.redaction import redact
from finetune.examples import NO_ANSWER, Example, examples, in_passages_words, paraphrased
from finetune.recipe import Recipe
from finetune.turns import Turn
from retrieval.build import build
from retrieval.index import Index
from retrieval.passages import Passage

ARTICLES = {
    "refund.md": "# Refunds\n\nYou can request a refund within 90 days.\n",
    "fee.md": "# Withdrawals\n\nThe fee of a withdrawal is 2 EUR.\n",
    "card.md": "# Cards\n\nA card is ready after 5 days.\n",
}
ASKED, TOLD = "How long for a refund?", "You can request a refund within 90 days. Anything else?"
PLAIN = Recipe(none_share=0, distractors_share=0)
CALL = {"id": "c1", "type": "function", "function": {"name": "status", "arguments": "{}"}}


@pytest.fixture
def index(tmp_path: Path, keywords, gate_at) -> Index:
    (tmp_path / "knowledge").mkdir()
    for name, text in ARTICLES.items():
        (tmp_path / "knowledge" / name).write_text(text)
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    return index


def turn(*said: str) -> Turn:
    *conversation, answer = (Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))
    return Turn(tuple(conversation), answer, "logs.jsonl:1")


def made(index: Index | None, *turns: Turn, recipe: Recipe = PLAIN, passages: int = 1) -> list[Example | None]:
    return list(examples(turns, index, recipe, passages))


def test_an_answer_is_paired_with_the_passage_that_serving_would_find(index: Index) -> None:
    (example,) = made(index, turn(ASKED, TOLD))
    assert example.kind == "retrieved"
    assert [passage.path for passage in example.passages] == ["refund.md"]
    assert (example.conversation, example.answer.content) == ((Message("user", ASKED),), TOLD)
    assert example.messages()[-1].content.startswith("Passages:\n[1] Refunds\nYou can request a refund")


def test_a_supporting_passage_that_the_question_does_not_find_is_put_in(index: Index) -> None:
    (example,) = made(index, turn("I paid by card, what now?", TOLD))
    assert example.kind == "inserted"
    assert [passage.path for passage in example.passages] == ["refund.md"]


def test_what_was_said_before_stays_in_the_example(index: Index) -> None:
    (example,) = made(index, turn(ASKED, TOLD, "And the fee?", "The fee of a withdrawal is 2 EUR. Anything else?"))
    assert len(example.conversation) == 3
    assert [passage.path for passage in example.passages] == ["fee.md"]


def test_an_answer_with_a_figure_that_no_article_holds_is_dropped(index: Index) -> None:
    assert made(index, turn(ASKED, "You can request a refund within 77 days. Anything else?")) == [None]


def test_a_figure_made_up_after_a_supported_sentence_is_dropped_too(index: Index) -> None:
    assert made(index, turn(ASKED, "You can request a refund within 90 days. The fee for it is 12 EUR.")) == [None]
    (example,) = made(index, turn(f"{ASKED} It was 12 EUR", f"{TOLD} You get back the 12 EUR."))
    assert example.kind == "retrieved"


def test_what_says_the_same_in_another_article_is_no_distractor(tmp_path: Path, keywords, gate_at) -> None:
    (tmp_path / "knowledge").mkdir()
    for name, text in (ARTICLES | {"faq.md": "# Questions\n\nWithin 90 days you can request a refund.\n"}).items():
        (tmp_path / "knowledge" / name).write_text(text)
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    (example,) = made(index, turn(ASKED, TOLD), recipe=Recipe(none_share=0, distractors_share=1), passages=4)
    assert {passage.path for passage in example.passages} == {"fee.md", "card.md"}


def test_saying_that_no_article_covers_it_is_learned_without_passages(index: Index) -> None:
    (example,) = made(index, turn("Can I buy bitcoin?", "Sorry, bitcoin is nothing that our help covers."))
    assert (example.kind, example.passages) == ("none", ())


def test_figures_of_an_answer_must_stand_in_what_is_shown_but_for_the_way_to_a_person(index: Index) -> None:
    """Courtesies hid the claim, and 'within 90 days' was learned with no passage at all."""
    told = "Thanks a lot for your patience with us today. You can request a refund within 90 days."
    (example,) = made(index, turn("hello there", told))
    assert (example.kind, [passage.path for passage in example.passages]) == ("retrieved", ["refund.md"])
    assert made(index, turn("hello there", "It depends on many things. Some ask within 90 days, others never.")) == [
        None
    ]
    way = "I find no article about this in the help centre. Write to us within 90 days of the refund."
    (example,) = made(index, turn("hello there", way))
    assert (example.kind, example.passages) == ("none", ())


def test_a_placeholder_is_no_figure(index: Index) -> None:
    (example,) = made(index, turn(ASKED, f"<NAME_1>, {TOLD[0].lower()}{TOLD[1:]}"))
    assert example.kind == "retrieved"


def test_a_share_of_one_makes_every_example_so(index: Index) -> None:
    turns = [turn(f"{ASKED} {n}", TOLD) for n in range(10)]
    for recipe, kinds in [
        (Recipe(none_share=1, distractors_share=0), {"none"}),
        (Recipe(none_share=0, distractors_share=1), {"distractors"}),
        (PLAIN, {"retrieved"}),
    ]:
        found = made(index, *turns, recipe=recipe, passages=3)
        assert {example.kind for example in found} == kinds
        if kinds != {"retrieved"}:
            assert {example.answer.content for example in found} == {NO_ANSWER["en"]}
            assert all("refund.md" not in [p.path for p in example.passages] for example in found)


def test_a_call_of_a_tool_is_never_replaced_by_saying_that_there_is_no_answer(index: Index) -> None:
    call = Message("assistant", TOLD, (CALL,))
    logged = Turn((Message("user", ASKED),), call, "logs.jsonl:1", tools=({"type": "function"},))
    (example,) = made(index, logged, recipe=Recipe(none_share=1, distractors_share=0))
    assert (example.answer, example.tools) == (call, logged.tools)


def passage(text: str, title: str = "Settlements") -> Passage:
    return Passage("p", "p.md", "p", title, "", text, "zh" if "。" in text else "en", 0, len(text), "line 3")


RESERVE = passage("We hold 8% of each settlement. It is released after 120 days.\n1. Open Settlement > Reserve.")


def test_an_answer_is_learned_in_the_words_of_the_passage_that_supports_it() -> None:
    said = "You see 8% of each settlement that we hold. Please bear with us. Anything else?"
    assert in_passages_words(said, [passage("A card costs 5 EUR.", "Cards"), RESERVE]) == (
        "We hold 8% of each settlement. Please bear with us. Anything else?"
    )


def test_a_sentence_with_the_figures_of_two_takes_both_in_order_and_each_once() -> None:
    said = "After 120 days we release the 8% of each settlement. So the settlement is released after 120 days."
    assert in_passages_words(said, [RESERVE]) == "We hold 8% of each settlement. It is released after 120 days."


def test_steps_are_told_to_the_end_in_a_paragraph_of_their_own() -> None:
    """An answer of some steps alone leads nowhere."""
    held = passage(
        "Ask for a review.\n\n1. Open Settlement > Reserve.\n2. Tap Review.\n3. Send it.\n\nIt takes 4 days."
    )
    steps = "1. Open Settlement > Reserve.\n2. Tap Review.\n3. Send it."
    assert in_passages_words("In Settlement open Reserve. It takes 4 days. Anything else?", [held]) == (
        f"{steps}\n\nIt takes 4 days. Anything else?"
    )


@pytest.mark.parametrize(
    ("said", "learned"),
    [
        ("1. Be patient.\n2. In Settlement open Reserve.", "1. Be patient.\n2. In Settlement open Reserve."),
        ("See https://pay.example/help?id=3 for it.  **Note!** Yes.", None),
        ("  - Tap Save.\n  - Tap Save.", None),
        ("Sorry, settlements!", None),
        ("So:\n\n- 8% of settlement: we hold that.\n* Be calm.", "So:\n\n- We hold 8% of each settlement.\n* Be calm."),
        ("We hold 8% of settlement.\n\nBe calm. Be kind.", "We hold 8% of each settlement.\n\nBe calm. Be kind."),
        ("We hold 8% of settlement. See pay.example/a?b=3.", "We hold 8% of each settlement. See pay.example/a?b=3."),
        ("-5% is what you lose.", None),
    ],
)
def test_lists_links_and_paragraphs_keep_their_form(said: str, learned: str | None) -> None:
    assert in_passages_words(said, [RESERVE]) == (learned or said)


def test_what_a_tool_told_stays_as_it_was_said(index: Index) -> None:
    asked = Message("user", ASKED), Message("assistant", "", (CALL,)), Message("tool", "90", tool_call_id="c1")
    said = "Within 90 days you request a refund."
    (example,) = made(index, Turn(asked, Message("assistant", said), "logs.jsonl:1"))
    assert example.answer.content == said


def test_chinese_sentences_stand_without_a_space_between() -> None:
    held = passage("每笔结算预留 8%。预留款在 120 天后释放。", "结算预留款")
    assert in_passages_words("每笔结算会预留 8%。预留款 120 天后释放。还有什么可以帮您？", [held]) == (
        "每笔结算预留 8%。预留款在 120 天后释放。还有什么可以帮您？"
    )


def test_what_no_single_passage_supports_stays_as_it_was_said() -> None:
    said = "We hold 9% of each settlement. Do we hold 8% of each settlement?"
    assert in_passages_words(said, [RESERVE, passage("A card costs 9% at most.", "Cards")]) == said


@pytest.mark.parametrize("answers", ["quoted", "logged"])
@pytest.mark.parametrize("source", ["agent", "correction"])
def test_agents_answers_are_quoted_as_the_recipe_says_and_corrections_never(
    index: Index, answers: str, source: str
) -> None:
    said = "Within 90 days you request a refund."
    logged = dataclasses.replace(turn(ASKED, said), source=source)
    (example,) = made(index, logged, recipe=PLAIN.model_copy(update={"answers": answers}))
    changes = (answers, source) == ("quoted", "agent")
    assert example.answer.content == ("You can request a refund within 90 days." if changes else said)


def test_without_an_index_the_pairs_are_bare() -> None:
    (example,) = made(None, turn(ASKED, TOLD))
    assert (example.kind, example.passages, example.answer.content) == ("bare", (), TOLD)


def test_the_same_seed_gives_the_same_examples(index: Index) -> None:
    turns = [turn(f"{ASKED} {n}", TOLD) for n in range(20)]
    recipe = Recipe(none_share=0.5, distractors_share=0.2)
    first = made(index, *turns, recipe=recipe)
    assert first == made(index, *turns, recipe=recipe)
    assert first != made(index, *turns, recipe=recipe.model_copy(update={"seed": 8}))


def test_paraphrases_ask_the_same_with_the_same_passages_and_answer(index: Index) -> None:
    (example,) = made(index, turn(ASKED, TOLD))
    (other,) = paraphrased([example], seed=7)
    assert ASKED in other.conversation[-1].content != ASKED
    assert (other.passages, other.answer, other.kind) == (example.passages, example.answer, example.kind)
