"""Examples as rows of token ids, and rows as batches that a model takes.

Only answers are learned, so only their positions are scored. Rows are packed into one sequence without padding, whose
position ids start anew at each row; `attention.py` keeps them apart.
"""

import itertools
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


def batches(rows: int, size: int, count: int, seed: int) -> Iterator[list[int]]:
    """`count` batches of positions among `rows`, reshuffled every epoch."""
    chance = random.Random(seed)
    given = 0
    while given < count:
        order = chance.sample(range(rows), rows)
        found = [order[start : start + size] for start in range(0, rows, size)]
        yield from found[: count - given]
        given += len(found)


def packed(rows: Sequence[Row], device: str) -> Batch:
    """Rows one after the other, `(1, all tokens)`, without an attention mask."""
    import torch

    ids = torch.tensor([[token for row in rows for token in row["ids"]]], device=device)
    positions = torch.tensor([[position for row in rows for position in range(len(row["ids"]))]], device=device)
    ends = tuple(itertools.accumulate(len(row["ids"]) for row in rows))
    learned = [at for row, end in zip(rows, ends, strict=True) for at in range(end - row["answer"], end)]
    # From the end, since some kinds of adapter put learned positions before the first.
    scored = torch.tensor(learned, device=device) - 1 - ends[-1]
    inputs = {"input_ids": ids, "position_ids": positions, "logits_to_keep": scored}
    return Batch(inputs | ({"row_ends": ends} if len(rows) > 1 else {}), ids[0, learned])


def token_losses(model: Any, batch: Batch, device: str) -> Any:
    """Cross-entropy of each of the answers' tokens, `(tokens,)`, with gradient, in nats."""
    import torch

    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(**batch.inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), batch.labels, reduction="none")
