"""What only a GPU can show; `make test-gpu` runs it there."""

from pathlib import Path

import pytest

from assistant.base_models import load_model, load_tokenizer
from assistant.prompt import Message
from finetune.adapter import attach
from finetune.attention import packing
from finetune.examples import Example
from finetune.recipe import Recipe
from finetune.rows import packed, token_losses, tokenise
from finetune.train import train

pytestmark = pytest.mark.gpu
EXAMPLES = [
    Example((Message("user", f"Refund {n}?"),), (), Message("assistant", f"It takes {n % 6} days."), "bare")
    for n in range(40)
]


def test_nf4_training_runs_on_the_gpu_and_learns(tiny_base: Path, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    recipe = Recipe(peft={"r": 4}, learning_rate=0.02, max_steps=12, batch_size=4, gradient_checkpointing=True)
    rows, _ = tokenise(load_tokenizer(str(tiny_base)), EXAMPLES, recipe.max_tokens)
    places = (tmp_path / "adapters", tmp_path / "run")
    result = train("tiny", str(tiny_base), rows[4:], rows[:4], recipe, *places, {})
    assert result.loss_before and result.loss_after
    assert result.loss_after < result.loss_before
    assert torch.cuda.max_memory_allocated() > 0


def test_packed_rows_have_on_the_gpu_the_losses_that_they_have_alone(tiny_base: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = load_model(str(tiny_base), "none", "cuda").eval()
    rows, _ = tokenise(load_tokenizer(str(tiny_base)), EXAMPLES[:6], 1024)
    alone = [token_losses(model, packed([row], "cuda"), "cuda").sum().item() for row in rows]
    with packing(model, rows, "cuda") as packs:
        together = token_losses(model, packed(rows, "cuda"), "cuda").sum().item()
    assert packs
    assert together == pytest.approx(sum(alone), rel=1e-2)


def test_liger_is_used_and_changes_no_gradient_on_the_gpu(tiny_base: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("liger_kernel", reason="Liger is not installed")
    rows, _ = tokenise(load_tokenizer(str(tiny_base)), EXAMPLES[:1], 1024)
    made = []
    for liger in (False, True):
        model = attach(load_model(str(tiny_base), "none", "cuda"), Recipe(quantize="none", liger=liger), None, "cuda")
        token_losses(model, packed(rows, "cuda"), "cuda").sum().backward()
        made.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert "Liger" in str(model.get_base_model().model.norm.forward)
    assert torch.nn.functional.cosine_similarity(*made, dim=0) > 0.99
