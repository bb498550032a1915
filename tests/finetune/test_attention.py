"""Packed rows give what each gives alone, in losses and gradients, on models of several kinds."""

import math
from pathlib import Path

import pytest

from assistant.base_models import load_model, load_tokenizer
from finetune.attention import _fused, _in_blocks, packing
from finetune.rows import Row, packed, token_losses

LENGTHS = (5, 9, 300)
ROWS = [Row(ids=[(7 * i + n) % 500 for i in range(length)], answer=4, kind="bare") for n, length in enumerate(LENGTHS)]
LIKE = [
    Row(ids=ROWS[2]["ids"][:shared] + [(3 * i + n) % 500 for i in range(length)], answer=4, kind="reading")
    for n, (shared, length) in enumerate([(280, 9), (20, 150), (280, 30), (5, 6)])
]
"""They share starts of different lengths with the last of `ROWS`, and with one another."""
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
    "initializer_range": 0.2,
}
KINDS = {
    "Llama": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": WINDOW},
    "Gemma3Text": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
}


def small(kind: str, **fields: object):
    """A model of random weights, in double precision, which autocast leaves alone."""
    import torch
    import transformers

    torch.manual_seed(7)
    config = getattr(transformers, f"{kind}Config")(**SMALL | KINDS.get(kind, {}) | fields)
    return getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config).double().eval()


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
        assert losses(model, ROWS) == pytest.approx(alone, rel=1e-4)  # norms and rotations are in fp32
        together = gradient(model, ROWS)
    assert torch.nn.functional.cosine_similarity(together, apart, dim=0) > 0.99999
    assert math.isclose(together.norm(), apart.norm(), rel_tol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_share_their_start_have_the_losses_and_gradients_that_they_have_alone(kind: str) -> None:
    import torch

    model, rows = small(kind), [*ROWS, *LIKE]
    alone, apart = [loss for row in rows for loss in losses(model, [row])], gradient(model, *([row] for row in rows))
    assert packed(rows, "cpu").inputs["input_ids"].shape[1] < sum(len(row["ids"]) for row in rows) - 500
    with packing(model, ROWS, "cpu") as packs:
        assert packs
        assert losses(model, rows) == pytest.approx(alone, rel=1e-4)
        together = gradient(model, rows)
    assert torch.nn.functional.cosine_similarity(together, apart, dim=0) > 0.99999
    assert math.isclose(together.norm(), apart.norm(), rel_tol=1e-4)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_rows_are_packed_for_the_embedded_base(smollm: Path, quantize: str) -> None:
    """In bf16 a token's loss is some tenths of a nat off already, which is no reason to go without."""
    texts = [f"{n} " + "How do I get a refund for my card? It takes 5 days. " * (6 + n) for n in range(4)]
    ids = [load_tokenizer(str(smollm))(text)["input_ids"] for text in texts]
    rows = [Row(ids=row, answer=40, kind="bare") for row in ids]
    with packing(load_model(str(smollm), quantize, "cpu"), rows, "cpu") as packs:
        assert packs


def test_a_row_does_not_change_what_the_next_row_loses() -> None:
    model = small("Llama")
    backwards = Row(ids=ROWS[2]["ids"][::-1], answer=4, kind="bare")
    with packing(model, ROWS, "cpu") as packs:
        assert packs
        behind = [losses(model, [first, ROWS[1]])[4:] for first in (ROWS[2], backwards)]
    assert behind[0] == behind[1]


def test_layers_that_are_computed_twice_to_save_memory_know_their_rows() -> None:
    import torch

    model = small("Llama").train()
    with packing(model, ROWS, "cpu"):
        assert model.training
        kept = gradient(model, ROWS)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        assert torch.allclose(gradient(model, ROWS), kept)


@pytest.mark.parametrize("own", [300, 170, 3])
@pytest.mark.parametrize(("window", "size"), [(7, 16), (130, 16), (300, 16), (300, 24)])
def test_the_kernel_of_the_gpu_and_that_of_the_cpu_agree(window: int, size: int, own: int) -> None:
    import torch

    torch.manual_seed(7)
    shapes = ((4, 16), (2, 16), (2, size))
    query, key, value = (torch.randn(1, heads, 300, wide, dtype=torch.double) for heads, wide in shapes)
    given = (query[:, :, -own:], key, value, window, 0.25, 0.0)
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


def test_a_model_that_does_not_say_how_it_mixes_rows_is_found_out_by_its_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finetune.attention._LAYERS", {"conv", "full_attention"})
    model = small("Lfm2", layer_types=["conv", "full_attention"])
    with packing(model, ROWS, "cpu") as packs:
        assert not packs


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_rows_are_given_one_by_one_where_learned_positions_stand_before_them(method: str) -> None:
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING[method](task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(small("Llama").float(), config)
    with packing(model, ROWS, "cpu") as packs:
        assert not packs
        assert gradient(model, [ROWS[1]]).norm() > 0


def test_rows_are_given_one_by_one_to_an_adapter_that_acts_from_its_invocation_on() -> None:
    """peft looks for the invocation once in a sequence, and would leave the adapter out of all rows but one."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(small("Llama"), LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=[7]))
    with packing(model, ROWS, "cpu") as packs:
        assert not packs


def test_the_models_own_attention_is_back_afterwards() -> None:
    model = small("Llama")
    before = model.config._attn_implementation
    with pytest.raises(KeyboardInterrupt), packing(model, ROWS, "cpu"):
        assert model.config._attn_implementation != before
        raise KeyboardInterrupt
    assert model.config._attn_implementation == before
