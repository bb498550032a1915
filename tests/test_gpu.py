"""What only a GPU can show; `make test-gpu` runs it there."""

from pathlib import Path

import pytest

from assistant.prompt import Message
from finetune.examples import Example
from finetune.recipe import Recipe
from finetune.train import train

pytestmark = pytest.mark.gpu


def test_nf4_training_runs_on_the_gpu_and_learns(tiny_base: Path, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    examples = [Example((Message("user", f"Refund {n}?"),), (), f"It takes {n % 6} days.", "bare") for n in range(40)]
    recipe = Recipe(rank=4, learning_rate=0.02, max_steps=12, batch_size=4, gradient_checkpointing=True)
    result = train("tiny", str(tiny_base), examples, recipe, tmp_path / "adapters", tmp_path / "run", {})
    assert result.loss_before and result.loss_after
    assert result.loss_after < result.loss_before
    assert torch.cuda.max_memory_allocated() > 0
