from pathlib import Path

import pytest

from assistant.prompt import Message
from assistant.redaction import redact
from finetune.examples import NO_ANSWER, Prepared, prepare
from finetune.logs import BadLine, Conversation
from finetune.recipe import Recipe
from retrieval.build import build
from retrieval.index import Index

ARTICLES = {
    "refund.md": "# Refunds\n\nYou can request a refund within 90 days.\n",
    "fee.md": "# Withdrawals\n\nThe fee of a withdrawal is 2 EUR.\n",
    "card.md": "# Cards\n\nA card is ready after 5 days.\n",
}
ASKED, TOLD = "How long for a refund?", "You can request a refund within 90 days. Anything else?"
PLAIN = Recipe(none_share=0, distractors_share=0)


@pytest.fixture
def index(tmp_path: Path, keywords, gate_at) -> Index:
    (tmp_path / "knowledge").mkdir()
    for name, text in ARTICLES.items():
        (tmp_path / "knowledge" / name).write_text(text)
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    return index


def log(*turns: str, rating: int | None = None, resolved: bool | None = None) -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns))
    return Conversation("logs.jsonl:1", messages, rating, resolved)


def prepared(
    index: Index | None, *logs: Conversation | BadLine, recipe: Recipe = PLAIN, languages=("en", "zh")
) -> Prepared:
    return prepare(logs, index, recipe, languages, passages=1)


def test_an_answer_is_paired_with_the_passage_that_serving_would_find(index: Index) -> None:
    (example,) = prepared(index, log(ASKED, TOLD)).examples
    assert example.kind == "retrieved"
    assert [passage.path for passage in example.passages] == ["refund.md"]
    assert (example.conversation, example.answer) == ((Message("user", ASKED),), TOLD)
    assert example.messages()[-1].content.startswith("Passages:\n[1] Refunds\nYou can request a refund")


def test_a_supporting_passage_that_the_question_does_not_find_is_put_in(index: Index) -> None:
    (example,) = prepared(index, log("I paid by card, what now?", TOLD)).examples
    assert example.kind == "inserted"
    assert [passage.path for passage in example.passages] == ["refund.md"]


def test_badly_rated_and_unresolved_conversations_are_left_out(index: Index) -> None:
    result = prepared(
        index,
        log(ASKED, TOLD, rating=2),
        log(ASKED, TOLD, resolved=False),
        log(ASKED, TOLD, rating=3, resolved=True),
    )
    assert len(result.examples) == 1
    assert result.counts["conversations: unresolved or rated badly"] == 2
    assert result.counts["conversations: kept"] == 1


def test_the_same_question_with_the_same_answer_is_learned_once(index: Index) -> None:
    result = prepared(index, log(ASKED, TOLD), log(ASKED, TOLD), log("A refund until when?", TOLD))
    assert len(result.examples) == 2
    assert result.counts["turns: duplicate"] == 1


def test_every_turn_of_the_agent_is_an_example_with_the_turns_before_it(index: Index) -> None:
    fee = "The fee of a withdrawal is 2 EUR. Anything else?"
    examples = prepared(index, log(ASKED, TOLD, "And the fee?", fee)).examples
    assert sorted(len(example.conversation) for example in examples) == [1, 3]


def test_greetings_are_no_answers(index: Index) -> None:
    result = prepared(index, log("Hello?", "Please hold."), log("退款", "请稍等。"))
    assert result.examples == []
    assert result.counts["turns: too short to be an answer"] == 2


def test_personal_data_never_reach_an_example_or_a_bad_line() -> None:
    card, phone = "4111 1111 1111 1111", "13800138000"
    result = prepared(
        None,
        log(f"Refund to {card}, or call {phone}?", f"{TOLD} Your card {card} stays."),
        BadLine("logs.jsonl:2", "not JSON", f'{{"card": "{card}"'),
    )
    (example,) = result.examples
    assert example.conversation[0].content == "Refund to <CARD_1>, or call <PHONE_1>?"
    assert example.answer == f"{TOLD} Your card <CARD_1> stays."
    assert result.counts["redacted: CARD"] == 2 and result.counts["redacted: PHONE"] == 1
    assert result.bad_lines == [BadLine("logs.jsonl:2", "not JSON", '{"card": "<CARD_1>"')]


def test_an_answer_with_a_figure_that_no_article_holds_is_dropped(index: Index) -> None:
    result = prepared(index, log(ASKED, "You can request a refund within 77 days. Anything else?"))
    assert result.examples == []
    assert result.counts["turns: figures that no article holds"] == 1


def test_saying_that_no_article_covers_it_is_learned_without_passages(index: Index) -> None:
    (example,) = prepared(index, log("Can I buy bitcoin?", "Sorry, bitcoin is nothing that our help covers.")).examples
    assert (example.kind, example.passages) == ("none", ())


def test_other_languages_than_the_base_writes_are_left_out(index: Index) -> None:
    chinese = log("怎么申请退款？", "付款之后您都可以在应用里申请退款。")
    result = prepared(index, chinese, log(ASKED, TOLD), languages=("en",))
    assert [example.answer for example in result.examples] == [TOLD]
    assert result.counts["turns: language that the base does not write"] == 1


def test_a_share_of_one_makes_every_example_so(index: Index) -> None:
    logs = [log(f"{ASKED} {n}", TOLD) for n in range(10)]
    for recipe, kinds in [
        (Recipe(none_share=1, distractors_share=0), {"none"}),
        (Recipe(none_share=0, distractors_share=1), {"distractors"}),
        (PLAIN, {"retrieved"}),
    ]:
        examples = prepare(logs, index, recipe, ("en",), passages=3).examples
        assert {example.kind for example in examples} == kinds
        if kinds != {"retrieved"}:
            assert {example.answer for example in examples} == {NO_ANSWER["en"]}
            assert all("refund.md" not in [p.path for p in example.passages] for example in examples)


def test_without_an_index_the_pairs_are_bare() -> None:
    (example,) = prepared(None, log(ASKED, TOLD)).examples
    assert (example.kind, example.passages, example.answer) == ("bare", (), TOLD)


def test_the_same_seed_gives_the_same_examples(index: Index) -> None:
    logs = [log(f"{ASKED} {n}", TOLD) for n in range(20)]
    recipe = Recipe(none_share=0.5, distractors_share=0.2)
    first = prepared(index, *logs, recipe=recipe).examples
    assert first == prepared(index, *logs, recipe=recipe).examples
    assert first != prepared(index, *logs, recipe=recipe.model_copy(update={"seed": 8})).examples


def test_at_most_max_examples_answers_are_drawn(index: Index) -> None:
    logs = [log(f"{ASKED} {n}", TOLD) for n in range(20)]
    result = prepared(index, *logs, recipe=PLAIN.model_copy(update={"max_examples": 5}))
    assert len(result.examples) == 5
    assert result.counts["turns: beyond max_examples"] == 15


def test_counts_of_conversations_and_turns_add_up(index: Index) -> None:
    logs = [
        *(log(f"{ASKED} {n}", TOLD) for n in range(4)),
        log(ASKED, TOLD, rating=1),
        log("Hello?", "Please hold."),
        BadLine("logs.jsonl:7", "not JSON", ""),
        log("x refund", "You can request a refund within 77 days. Anything else?"),
    ]
    counts = prepared(index, *logs).counts
    assert sum(count for kind, count in counts.items() if kind.startswith("conversations")) == len(logs)
    assert sum(count for kind, count in counts.items() if kind.startswith("turns")) == counts["conversations: kept"]
