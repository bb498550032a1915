"""Rows and batches, on the real tokenizer and a two-layer model."""

from dataclasses import replace
from pathlib import Path

import pytest

from assistant import prompt
from assistant.base_models import load_model, load_tokenizer
from assistant.prompt import Message
from finetune.examples import Example
from finetune.rows import Row, batches, bundles, packed, token_losses, tokenise

EXAMPLE = Example((Message("user", "How long?"),), (), Message("assistant", "It takes 0 days."), "bare")
CALL = {"id": "c1", "type": "function", "function": {"name": "status", "arguments": '{"order": 7}'}}
TOOLS = ({"type": "function", "function": {"name": "status", "parameters": {"type": "object", "properties": {}}}},)
HERMES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls %}"
    "<tool_call>{{ call.function.arguments.order }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template that writes tool calls, which SmolLM2's own does not."""


@pytest.fixture(scope="module")
def tokenizer(smollm: Path):
    return load_tokenizer(str(smollm))


def test_a_row_is_the_serving_prompt_and_the_answer_with_its_stop_token(tokenizer) -> None:
    (row,), left_out = tokenise(tokenizer, [EXAMPLE], 1024)
    asked, answer = row["ids"][: -row["answer"]], row["ids"][-row["answer"] :]
    assert asked == prompt.tokens(tokenizer, EXAMPLE.messages())
    assert tokenizer.decode(answer) == "It takes 0 days.<|im_end|>"
    assert (row["kind"], left_out) == ("bare", {})


def test_an_example_that_is_too_long_loses_its_oldest_turns_and_never_its_answer(tokenizer) -> None:
    earlier = (Message("user", "Hello?"), Message("assistant", "Hello, how can I help?"))
    long = replace(EXAMPLE, conversation=earlier + EXAMPLE.conversation)
    (whole,), _ = tokenise(tokenizer, [long], 1024)
    (short,), _ = tokenise(tokenizer, [EXAMPLE], 1024)
    assert tokenise(tokenizer, [long], len(whole["ids"]))[0] == [whole]
    assert tokenise(tokenizer, [long], len(whole["ids"]) - 1) == ([short], {})


def test_an_example_whose_last_question_is_too_long_is_left_out_and_counted(tokenizer) -> None:
    (row,), _ = tokenise(tokenizer, [EXAMPLE], 1024)
    assert tokenise(tokenizer, [EXAMPLE], len(row["ids"]) - 1) == ([], {"longer than max_tokens": 1})


def test_a_general_example_is_asked_without_the_support_prompt(tokenizer) -> None:
    (row,), _ = tokenise(tokenizer, [replace(EXAMPLE, kind="general")], 1024)
    assert row["ids"][: -row["answer"]] == prompt.tokens(tokenizer, EXAMPLE.conversation)


def test_tool_calls_are_left_out_where_the_chat_template_cannot_write_them(tokenizer) -> None:
    calls = replace(EXAMPLE, answer=Message("assistant", "", (CALL,)), tools=TOOLS)
    assert tokenise(tokenizer, [calls], 1024) == ([], {"tool calls that the chat template cannot write": 1})


def test_tool_calls_and_their_replies_are_learned_as_the_chat_template_writes_them(smollm: Path) -> None:
    tokenizer = load_tokenizer(str(smollm))
    tokenizer.chat_template = HERMES
    asked = EXAMPLE.conversation
    call = Message("assistant", "", (CALL,))
    reply = Message("tool", "shipped", tool_call_id="c1")
    rows, _ = tokenise(
        tokenizer,
        [
            replace(EXAMPLE, answer=call, tools=TOOLS),
            replace(EXAMPLE, conversation=(*asked, call, reply), answer=Message("assistant", "It is shipped.")),
        ],
        1024,
    )
    ends = [tokenizer.decode(row["ids"][-row["answer"] :]) for row in rows]
    assert ends == ["<tool_call>7</tool_call><|im_end|>", "It is shipped.<|im_end|>"]
    assert "<tool_call>7</tool_call><|im_end|>\n<|im_start|>tool\nshipped" in tokenizer.decode(rows[1]["ids"])


# Batches


def test_batches_hold_every_row_once_an_epoch_in_an_order_that_the_seed_gives() -> None:
    found = list(batches(8, 2, 8, seed=1))
    assert sorted(i for batch in found[:4] for i in batch) == list(range(8))
    assert sorted(i for batch in found[4:] for i in batch) == list(range(8))
    assert found[:4] != found[4:]
    assert found == list(batches(8, 2, 8, seed=1)) != list(batches(8, 2, 8, seed=2))


def test_the_last_batch_of_an_epoch_holds_the_rows_that_are_left() -> None:
    assert [len(batch) for batch in batches(5, 2, 4, seed=1)] == [2, 2, 1, 2]


# The loss

SHORT = Row(ids=[11, 12, 13, 14, 15], answer=2, kind="bare")
LONG = Row(ids=[21, 22, 23, 24, 25, 26, 27, 28, 29], answer=4, kind="bare")


def test_the_loss_is_minus_the_log_probability_of_each_of_the_answers_tokens(tiny_base: Path) -> None:
    import torch

    model = load_model(str(tiny_base), "none", "cpu").float().eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=torch.tensor([SHORT["ids"]])).logits[0].float()
    chances = torch.log_softmax(logits, dim=-1)
    # The answer is 14, 15: the token at position 2 predicts the first, the one at 3 the second.
    by_hand = [-chances[2, 14].item(), -chances[3, 15].item()]
    assert token_losses(model, packed([SHORT], "cpu"), "cpu").tolist() == pytest.approx(by_hand, rel=1e-3)


def test_rows_are_packed_without_padding_and_only_answers_are_scored() -> None:
    inputs, labels = packed([SHORT, LONG], "cpu")
    assert inputs["input_ids"].tolist() == [SHORT["ids"] + LONG["ids"]]
    assert inputs["position_ids"].tolist() == [[*range(5), *range(9)]]
    assert inputs["row_parts"] == (((0, 5),), ((5, 14),))
    assert labels.tolist() == [14, 15, 26, 27, 28, 29]
    assert [inputs["input_ids"][0, at].item() for at in inputs["logits_to_keep"]] == [13, 14, 25, 26, 27, 28]


def test_what_a_row_shares_with_an_earlier_one_from_its_start_stands_there_once() -> None:
    rows = [
        Row(ids=ids, answer=2, kind="reading") for ids in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9], [1, 2, 3, 7, 8, 4])
    ]
    inputs, labels = packed(rows, "cpu")
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 8, 4]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]]
    assert inputs["row_parts"] == (((0, 6),), ((0, 3), (6, 9)), ((0, 3), (9, 12)))
    assert labels.tolist() == [5, 6, 8, 9, 8, 4]
    assert [inputs["input_ids"][0, at].item() for at in inputs["logits_to_keep"]] == [4, 5, 7, 8, 7, 8]


def test_a_part_that_is_shared_twice_is_found_where_it_stands_first() -> None:
    asked = ([1, 2, 3], [1, 2, 4, 5, 6], [1, 2, 4, 5, 7])
    rows = [Row(ids=[*ids, 8, 9], answer=1, kind="reading") for ids in asked]
    assert packed(rows, "cpu").inputs["row_parts"] == (((0, 5),), ((0, 2), (5, 10)), ((0, 2), (5, 7), (10, 13)))


def test_neighbours_with_the_same_passages_are_a_bundle_no_longer_than_a_row_may_be() -> None:
    first, second = list(range(100)), list(range(50, 150))
    rows = [Row(ids=[*ids, n, n], answer=1, kind="reading") for ids in (first, second) for n in range(4)]
    rows.append(Row(ids=first[:40], answer=1, kind="none"))
    assert bundles(rows, 1024) == [range(0, 4), range(4, 8), range(8, 9)]
    assert bundles(rows, 106) == [range(0, 3), range(3, 4), range(4, 7), range(7, 8), range(8, 9)]
    assert bundles([], 1024) == []
