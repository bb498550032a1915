"""Rows and batches, on the real tokenizer and a two-layer model."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from assistant import prompt
from assistant.base_models import load_model, load_tokenizer
from assistant.prompt import Message
from finetune.examples import Example
from finetune.rows import IGNORED, Row, batches, packed, packs, padded, summed_loss, tokenise

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


def test_batches_hold_every_row_once_an_epoch_with_rows_of_similar_length_together() -> None:
    lengths = [10, 500, 11, 501, 12, 502, 13, 503]
    found = list(batches(lengths, 2, 8, seed=1))
    assert sorted(i for batch in found[:4] for i in batch) == list(range(8))
    assert sorted(i for batch in found[4:] for i in batch) == list(range(8))
    assert all(len({lengths[i] > 100 for i in batch}) == 1 for batch in found)
    assert found == list(batches(lengths, 2, 8, seed=1)) != list(batches(lengths, 2, 8, seed=2))


def test_packs_stay_within_their_tokens_and_hold_every_row() -> None:
    rows = [Row(ids=[0] * length, answer=1, kind="bare") for length in (3, 9, 4, 2, 20)]
    found = [[len(row["ids"]) for row in pack] for pack in packs(rows, 10)]
    assert found == [[20], [9], [4, 3, 2]]


# The loss

SHORT = Row(ids=[11, 12, 13, 14, 15], answer=2, kind="bare")
LONG = Row(ids=[21, 22, 23, 24, 25, 26, 27, 28, 29], answer=4, kind="bare")


@pytest.fixture(scope="module")
def model(tiny_base: Path):
    return load_model(str(tiny_base), "none", "cpu").float().eval()


def loss(model, rows, batch=padded) -> float:
    return summed_loss(model, batch(rows, "cpu"), "cpu").item()


def test_the_loss_is_the_sum_of_minus_log_probabilities_of_the_answers_tokens(model) -> None:
    import torch

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=torch.tensor([SHORT["ids"]])).logits[0].float()
    chances = torch.log_softmax(logits, dim=-1)
    # The answer is 14, 15: the token at position 2 predicts the first, the one at 3 the second.
    by_hand = -(chances[2, 14] + chances[3, 15]).item()
    assert loss(model, [SHORT]) == pytest.approx(by_hand, rel=1e-3)
    assert loss(model, [SHORT], packed) == pytest.approx(by_hand, rel=1e-3)


def test_padding_does_not_change_the_loss(model) -> None:
    alone = loss(model, [SHORT]) + loss(model, [LONG])
    assert loss(model, [SHORT, LONG]) == pytest.approx(alone, rel=1e-2)
    assert loss(model, [LONG, SHORT]) == pytest.approx(alone, rel=1e-2)


def test_packed_rows_do_not_see_each_other(model) -> None:
    alone = loss(model, [SHORT]) + loss(model, [LONG])
    assert loss(model, [SHORT, LONG], packed) == pytest.approx(alone, rel=1e-2)
    assert loss(model, [LONG, SHORT, SHORT], packed) == pytest.approx(alone + loss(model, [SHORT]), rel=1e-2)


def test_packed_rows_make_the_gradients_of_padded_ones(model) -> None:
    import torch

    made = []
    for batch in (packed, padded):
        model.zero_grad()
        summed_loss(model, batch([SHORT, LONG], "cpu"), "cpu").backward()
        made.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*made, dim=0) > 0.999
    assert math.isclose(made[0].norm(), made[1].norm(), rel_tol=0.02)


def test_only_the_answers_tokens_have_labels() -> None:
    assert padded([SHORT, LONG], "cpu").labels.tolist() == [IGNORED, IGNORED, 14, 15, 26, 27, 28, 29]
    assert packed([SHORT, LONG], "cpu").labels.tolist() == [14, 15, 26, 27, 28, 29]
    assert packed([SHORT, LONG], "cpu").inputs["logits_to_keep"].tolist() == [2, 3, 9, 10, 11, 12]


def test_gradients_flow_from_answers_and_micro_batches_add_up_to_the_batch(model) -> None:
    import torch

    def gradient(*parts) -> "torch.Tensor":
        model.zero_grad()
        for rows in parts:
            summed_loss(model, padded(rows, "cpu"), "cpu").backward()
        return model.model.layers[0].mlp.up_proj.weight.grad.flatten().clone()

    together, apart = gradient([SHORT, LONG]), gradient([SHORT], [LONG])
    assert together.norm() > 0
    assert torch.nn.functional.cosine_similarity(together, apart, dim=0) > 0.999
    assert math.isclose(together.norm(), apart.norm(), rel_tol=0.02)
