"""Rows packed one after the other, each attending to itself alone.

transformers keeps packed rows apart by a mask over all pairs of positions, most of which is computed for nothing, as is
the future half of each row. Here a model is given an attention function that takes one row after the other, and of
each row what comes before, also where that stands in an earlier row; it is registered with transformers under `NAME`.
"""

import contextlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from finetune.rows import Part, Row, packed, token_losses

NAME = "each_row_alone"
_QUERIES = 128
"""Queries computed at once on a CPU: few enough to skip the future, enough for fast products (64 to 256: the same)."""
_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layer, as transformers names them, that see other positions by attention alone."""
_ROUNDING = 0.2
"""By how many nats a token's loss may differ, in the mean, between a pack and a row alone: bf16 makes .05 or .06."""


class _Unfit(Exception):
    """A model asks for attention that is not written here."""


@contextlib.contextmanager
def packing(model: Any, rows: Sequence[Row], device: str) -> Iterator[bool]:
    """Give the model this attention while the context lasts; whether rows may be packed.

    They may not where layers mix positions in other ways, learned positions would stand before the first row alone, an
    adapter looks for its invocation once in a sequence, or `_keeps_apart` shows a difference. Such a model keeps its
    own attention, and is to be given rows one by one.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    before, was_training = model.config._attn_implementation, model.training
    invoked = any(getattr(config, "alora_invocation_tokens", None) for config in _adapters(model))
    apart = False
    model.eval()
    try:
        if not invoked and set(getattr(model.config, "layer_types", None) or ()) <= _LAYERS:
            apart = _keeps_apart(model, rows, device)
        if not apart:
            model.set_attn_implementation(before)
        model.train(was_training)
        yield apart
    finally:
        model.set_attn_implementation(before)


def _adapters(model: Any) -> Iterable[Any]:
    """The configs of peft's adapters on the model."""
    return getattr(model, "peft_config", {}).values()


def _keeps_apart(model: Any, rows: Sequence[Row], device: str) -> bool:
    """Whether packing leaves the losses of the two shortest rows alone, and the first does not change the second's.

    The model has this attention afterwards.
    """
    import torch

    first, second = (2 * heapq.nsmallest(2, rows, key=lambda row: len(row["ids"])))[:2]
    other = Row(ids=first["ids"][::-1], answer=first["answer"], kind=first["kind"])
    with torch.no_grad():
        alone = torch.cat([token_losses(model, packed([row], device), device) for row in (first, second)])
        model.set_attn_implementation(NAME)
        try:
            together, behind = (token_losses(model, packed([row, second], device), device) for row in (first, other))
        except (_Unfit, TypeError):  # TypeError: a model that takes no further arguments
            return False
    answer = first["answer"]
    same = (together - alone).abs().mean() <= _ROUNDING
    return bool(same) and torch.allclose(together[answer:], behind[answer:], rtol=0, atol=1e-3)


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    row_parts: Sequence[Sequence[Part]] = (),
    **others: Any,
) -> tuple[Any, None]:
    """Causal attention within rows that stand at `row_parts`, the last part of each its own, those before it shared
    with rows before; without them all is one row.

    As transformers calls it: `query` is `(1, heads, tokens, size)`, `key` `(1, key heads, tokens, size)`, `value` the
    same or of another size, the result `(1, tokens, heads, size of a value)`.

    Raises:
        _Unfit: The model masks by itself, continues a cache, or bends its scores.
    """
    import torch

    tokens = query.shape[2]
    row_parts = row_parts or (((0, tokens),),)
    bent = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if attention_mask is not None or bent or (len(query), key.shape[2], row_parts[-1][-1][1]) != (1, tokens, tokens):
        raise _Unfit
    window = sliding_window or tokens
    scale = scaling or query.shape[-1] ** -0.5
    kernel = _fused if query.is_cuda else _in_blocks
    rows = []
    for parts in row_parts:
        own = query[:, :, slice(*parts[-1])]
        keys, values = (torch.cat([each[:, :, slice(*part)] for part in parts], dim=2) for each in (key, value))
        rows.append(kernel(own, keys, values, window, scale, dropout))
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def _in_blocks(query: Any, key: Any, value: Any, window: int, scale: float, dropout: float) -> Any:
    """The end of a row, a block of queries at a time against the keys they see: twice as fast as PyTorch's on a CPU."""
    import torch

    heads, tokens, size = query.shape[1:]
    groups, before = key.shape[1], key.shape[2] - tokens  # groups of heads share keys and values
    query = query * scale
    made = []
    for start in range(0, tokens, _QUERIES):
        end = min(start + _QUERIES, tokens)
        first, last = max(0, before + start - window + 1), before + end
        keys, values = key[0, :, first:last], value[0, :, first:last]
        asked = query[0, :, start:end].reshape(groups, -1, size)
        scores = torch.bmm(asked, keys.transpose(1, 2)).view(groups, -1, end - start, last - first)
        scores = scores.masked_fill(_hidden(before + start, last, first, window, query.device), float("-inf"))
        chances = torch.nn.functional.dropout(torch.softmax(scores, dim=-1), dropout)
        made.append(torch.bmm(chances.view(groups, -1, last - first), values).view(heads, end - start, -1))
    return torch.cat(made, dim=1)[None]


def _fused(query: Any, key: Any, value: Any, window: int, scale: float, dropout: float) -> Any:
    """The end of a row, by the kernel that PyTorch chooses; with a mask, grouped heads would keep it from fast ones."""
    import torch

    heads, tokens, size = query.shape[1:]
    all_tokens = key.shape[2]
    whole = tokens == all_tokens <= window
    seen = None if whole else ~_hidden(all_tokens - tokens, all_tokens, 0, window, query.device)
    grouped = seen is None and size == value.shape[-1] <= 256
    if not grouped:
        key, value = (each.repeat_interleave(heads // each.shape[1], dim=1) for each in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, seen, dropout, is_causal=seen is None, scale=scale, enable_gqa=grouped
    )


def _hidden(start: int, end: int, first: int, window: int, device: Any) -> Any:
    """Which of the keys from `first` the queries from `start` do not see, `(queries, keys)`: later and old ones."""
    import torch

    queries = torch.arange(start, end, device=device)[:, None]
    keys = torch.arange(first, end, device=device)[None]
    return (keys > queries) | (keys <= queries - window)
