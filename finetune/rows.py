"""Examples as rows of token ids, and rows as batches that a model takes.

Only answers are learned, so only their positions are scored. On a CPU rows of similar length are padded on
the left, where their answers line up at the end; on a GPU they are packed into one sequence without padding,
whose position ids start anew at each row, from which transformers masks rows from each other.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

from assistant import prompt
from finetune.examples import Example

IGNORED = -100
"""The label of a position that is not learned, as cross-entropy knows it."""
_POOLED = 8
"""Batches whose rows are sorted by length together."""


class Row(TypedDict):
    ids: list[int]
    """The prompt, then the answer with its stop token."""
    answer: int
    """Ids at the end that are learned."""
    kind: str
    """Of its example."""


class Batch(NamedTuple):
    inputs: dict[str, Any]
    """What the model is called with."""
    labels: Any
    """One for each scored position, in order; `IGNORED` where none is learned. A tensor."""
    shifted: bool
    """The scored positions hold one more at the end of each row, which predicts nothing that is known."""


def tokenise(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> tuple[list[Row], Counter[str]]:
    """A row for each example, in order, and those left out by reason.

    An example that is too long loses its oldest turns, as many as need be; its last question and its answer are
    whole or it is left out.
    """
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for example in examples:
        if _calls_tools(example) and "tool" not in (tokenizer.chat_template or ""):
            left_out["tool calls that the chat template cannot write"] += 1
            continue
        row = _shortened(tokenizer, example, max_tokens)
        if row:
            rows.append(row)
        else:
            left_out["longer than max_tokens"] += 1
    return rows, left_out


def _calls_tools(example: Example) -> bool:
    return bool(example.tools or example.answer.tool_calls) or any(
        message.role == "tool" or message.tool_calls for message in example.conversation
    )


def _shortened(tokenizer: Any, example: Example, max_tokens: int) -> Row | None:
    while True:
        row = _row(tokenizer, example)
        if row is None or len(row["ids"]) <= max_tokens:
            return row
        asked = [i for i, message in enumerate(example.conversation) if message.role == "user" and i]
        if not asked:
            return None
        example = replace(example, conversation=example.conversation[asked[0] :])


def _row(tokenizer: Any, example: Example) -> Row | None:
    asked = prompt.tokens(tokenizer, example.messages(), example.tools)
    if example.answer.tool_calls:
        answer = _call(tokenizer, example, asked)
    else:
        answer = tokenizer(example.answer.content, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Row(ids=asked + answer, answer=len(answer), kind=example.kind) if answer else None


def _call(tokenizer: Any, example: Example, asked: list[int]) -> list[int]:
    """The ids with which the chat template writes a tool call after the prompt; none if it rewrites the prompt."""
    written = prompt.tokens(tokenizer, [*example.messages(), example.answer], example.tools, answered=True)
    stop = tokenizer.eos_token_id
    if written[: len(asked)] != asked or stop not in written[len(asked) :]:
        return []
    return written[len(asked) : written.index(stop, len(asked)) + 1]


def batches(lengths: Sequence[int], size: int, count: int, seed: int) -> Iterator[list[int]]:
    """`count` batches of positions in `lengths`, rows of similar length together, reshuffled every epoch."""
    chance = random.Random(seed)
    given = 0
    while given < count:
        order = list(range(len(lengths)))
        chance.shuffle(order)
        pool = size * _POOLED
        found = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lengths.__getitem__)
            found += [near[i : i + size] for i in range(0, len(near), size)]
        chance.shuffle(found)
        yield from found[: count - given]
        given += len(found)


def padded(rows: Sequence[Row], device: str) -> Batch:
    """Rows side by side, `(rows, longest)`; padding is known by length, since the pad token may be the stop token."""
    import torch

    width = max(len(row["ids"]) for row in rows)
    answer = max(row["answer"] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(rows), answer), IGNORED)
    for i, row in enumerate(rows):
        ids[i, width - len(row["ids"]) :] = torch.tensor(row["ids"])
        mask[i, width - len(row["ids"]) :] = 1
        labels[i, answer - row["answer"] :] = torch.tensor(row["ids"][-row["answer"] :])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    return Batch(moved | {"logits_to_keep": answer + 1}, labels.flatten().to(device), shifted=True)


def packed(rows: Sequence[Row], device: str) -> Batch:
    """Rows one after the other, `(1, all tokens)`, without an attention mask."""
    import torch

    ids = torch.tensor([[token for row in rows for token in row["ids"]]])
    positions = torch.tensor([[position for row in rows for position in range(len(row["ids"]))]])
    learned: list[int] = []
    end = 0
    for row in rows:
        end += len(row["ids"])
        learned += range(end - row["answer"], end)
    inputs = {"input_ids": ids, "position_ids": positions, "logits_to_keep": torch.tensor(learned) - 1}
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    return Batch(moved, ids[0, learned].to(device), shifted=False)


def packs(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Rows in groups of at most `most` tokens, longest first; a row that is longer stands alone."""
    group: list[Row] = []
    room = most
    for row in sorted(rows, key=lambda row: -len(row["ids"])):
        if group and len(row["ids"]) > room:
            yield group
            group, room = [], most
        group.append(row)
        room -= len(row["ids"])
    if group:
        yield group


def summed_loss(model: Any, batch: Batch, device: str) -> Any:
    """Cross-entropy summed over the answers' tokens: a scalar tensor with gradient, in nats."""
    import torch

    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(**batch.inputs, use_cache=False).logits
    if batch.shifted:
        logits = logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.labels, ignore_index=IGNORED, reduction="sum"
    )
