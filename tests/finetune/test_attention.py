"""Packed rows give what each gives alone, in losses and gradients, on models of several kinds."""

import math

import pytest

from finetune.attention import _fused, _in_blocks, packing
from finetune.rows import Row, packed, token_losses

LENGTHS = (5, 9, 300)
ROWS = [Row(ids=[(7 * i + n) % 500 for i in range(length)], answer=4, kind="bare") for n, length in enumerate(LENGTHS)]
WINDOW = 16
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
KINDS = {
    "Llama": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": WINDOW},
    "Gemma3Text": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
}


def small(kind: str, **fields: object):
    """A model of random weights, in fp32."""
    import torch
    import transformers

    torch.manual_seed(7)
    config = getattr(transformers, f"{kind}Config")(**SMALL | KINDS.get(kind, {}) | fields)
    return getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config).eval()


def losses(model, rows) -> list[float]:
    import torch

    with torch.no_grad():
        return token_losses(model, packed(rows, "cpu"), "cpu").tolist()


def gradient(model, *batches: list[Row]):
    import torch

    model.zero_grad()
    for rows in batches:
        token_losses(model, packed(rows, "cpu"), "cpu").sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_have_the_losses_and_gradients_that_they_have_alone(kind: str) -> None:
    import torch

    model = small(kind)
    alone, apart = [loss for row in ROWS for loss in losses(model, [row])], gradient(model, *([row] for row in ROWS))
    with packing(model, ROWS, "cpu") as packs:
        assert packs
        assert losses(model, ROWS) == pytest.approx(alone, rel=1e-2)
        together = gradient(model, ROWS)
    assert torch.nn.functional.cosine_similarity(together, apart, dim=0) > 0.999
    assert math.isclose(together.norm(), apart.norm(), rel_tol=0.01)


def test_a_row_does_not_change_what_another_row_loses() -> None:
    model = small("Llama").double()
    with packing(model, ROWS, "cpu"):
        after_a_short_row, after_another = (losses(model, [first, ROWS[2]])[4:] for first in ROWS[:2])
    assert after_a_short_row == pytest.approx(after_another, rel=1e-3)


@pytest.mark.parametrize("window", [7, 130, 300])
def test_the_kernel_of_the_gpu_and_that_of_the_cpu_agree(window: int) -> None:
    import torch

    torch.manual_seed(7)
    query, key, value = (torch.randn(1, heads, 300, 16, dtype=torch.double) for heads in (4, 2, 2))
    given = (query, key, value, window, 0.25, 0.0)
    assert torch.allclose(_in_blocks(*given), _fused(*given))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Gemma2", {}),  # bends its scores
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),  # mixes neighbours without attention
    ],
)
def test_rows_are_given_one_by_one_to_a_model_that_would_mix_them(kind: str, fields: dict[str, object]) -> None:
    model = small(kind, **fields)
    before = model.config._attn_implementation
    with packing(model, ROWS, "cpu") as packs:
        assert not packs
        assert model.config._attn_implementation == before


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_rows_are_given_one_by_one_where_learned_positions_stand_before_them(method: str) -> None:
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING[method](task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(small("Llama"), config)
    with packing(model, ROWS, "cpu") as packs:
        assert not packs
        assert gradient(model, [ROWS[1]]).norm() > 0


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = small("Llama")
    before = model.config._attn_implementation
    with pytest.raises(KeyboardInterrupt), packing(model, ROWS, "cpu"):
        assert model.config._attn_implementation != before
        raise KeyboardInterrupt
    assert model.config._attn_implementation == before
