"""Examples as rows of token ids, and rows as batches that a model takes.

Only answers are learned, so only their positions are scored. Rows are packed into one sequence without padding. What a
row shares with an earlier one from its start, as questions on the same passages do, stands there once: position ids go
on from it, and `attention.py` shows each row what is its own.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

from assistant import prompt
from finetune.examples import Example


class Row(TypedDict):
    ids: list[int]
    """The prompt, then the answer with its stop token."""
    answer: int
    """Ids at the end that are learned."""
    kind: str
    """Of its example."""


Part = tuple[int, int]
"""Of a sequence: its first position and the one past its last."""


class Batch(NamedTuple):
    inputs: dict[str, Any]
    """What the model is called with."""
    labels: Any
    """The tokens of the answers, `(tokens,)`, in order."""


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


def bundles(rows: Sequence[Row], max_tokens: int) -> list[range]:
    """The positions of rows that are computed together: `reading` ones that share most of their ids with the first.

    Together they are no longer than `max_tokens`, what they share counted once; with 0 each row is its own.
    """
    found: list[range] = []
    first: list[int] = []
    tokens = 0
    for i, row in enumerate(rows):
        ids = row["ids"]
        shared = _shared(first, ids)
        tokens += len(ids) - shared
        alike = row["kind"] == "reading" and shared > max(len(first), len(ids)) / 2
        if found and alike and tokens <= max_tokens:
            found[-1] = range(found[-1].start, i + 1)
        else:
            found.append(range(i, i + 1))
            first, tokens = ids, len(ids)
    return found


def batches(bundles: int, size: int, count: int, seed: int) -> Iterator[list[int]]:
    """`count` batches of positions among `bundles`, reshuffled every epoch."""
    chance = random.Random(seed)
    given = 0
    while given < count:
        order = chance.sample(range(bundles), bundles)
        found = [order[start : start + size] for start in range(0, bundles, size)]
        yield from found[: count - given]
        given += len(found)


def packed(rows: Sequence[Row], device: str) -> Batch:
    """Rows one after the other, `(1, all tokens)`, without an attention mask; what they share from their start once."""
    import torch

    ids: list[int] = []
    positions: list[int] = []
    parts: list[tuple[Part, ...]] = []
    learned: list[int] = []
    for i, row in enumerate(rows):
        # The last id of a prompt is its row's own, since it foretells the first of the answer.
        most = len(row["ids"]) - row["answer"] - 1
        shared, like = max(((min(_shared(rows[j]["ids"], row["ids"]), most), -j) for j in range(i)), default=(0, 0))
        if device == "cuda" and shared <= most / 2:  # less is not worth the mask, which keeps from fast kernels
            shared = 0
        own = (len(ids), len(ids) + len(row["ids"]) - shared)
        ids += row["ids"][shared:]
        positions += range(shared, len(row["ids"]))
        parts.append((*_first(parts[-like], shared), own) if shared else (own,))
        learned += range(own[1] - row["answer"], own[1])
    # From the end, since some kinds of adapter put learned positions before the first.
    scored = torch.tensor(learned, device=device) - 1 - len(ids)
    sequence = torch.tensor([ids], device=device)
    inputs = {
        "input_ids": sequence,
        "position_ids": torch.tensor([positions], device=device),
        "logits_to_keep": scored,
    }
    return Batch(inputs | ({"row_parts": tuple(parts)} if len(rows) > 1 else {}), sequence[0, learned])


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two rows have in common from their start."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _first(parts: Sequence[Part], count: int) -> Iterator[Part]:
    """The parts that hold the first `count` ids of a row."""
    for start, end in parts:
        if count > 0:
            yield start, min(end, start + count)
        count -= end - start


def token_losses(model: Any, batch: Batch, device: str) -> Any:
    """Cross-entropy of each of the answers' tokens, `(tokens,)`, with gradient, in nats."""
    import torch

    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(**batch.inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), batch.labels, reduction="none")
