"""Checkpoints of a run: what it needs to go on as if it had never stopped, in safetensors and JSON."""

import json
import math
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.files import new_folder, storage_errors

_NAME = re.compile(r"step-(\d{7})")


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    """Prompt and answer, without padding."""
    seconds: float = 0.0
    """Of optimisation, without loading and validation."""
    before: float | None = None
    """Loss on held-out examples before the first step, in nats a token; None without such examples."""
    best: float | None = None
    """Of the weights that are kept."""
    best_step: int | None = None
    """The newest step that was not worse than the least loss beyond chance."""
    least: Sequence[float] = ()
    """Loss of each held-out answer at the validation whose loss was least, in nats."""
    validations: int = 0
    """Made so far, the one before the first step not counted."""
    worse: int = 0
    """Validations in a row that were worse."""
    micro_batch: int = 0
    """Examples computed at once; less than the recipe's when memory ran out."""

    def validated(self, losses: Sequence[float], tokens: Sequence[int]) -> "Progress":
        """After a validation at this step, which found these losses of held-out answers with so many tokens.

        The newest weights are kept unless they are worse than the best beyond chance: with few held-out answers the
        least loss is a matter of luck, and the last weights have learned at the lowest rate.
        """
        after = replace(self, validations=self.validations + 1)
        changes = [(new - old) / count for new, old, count in zip(losses, self.least, tokens, strict=False)]
        if _above_zero(changes):
            return replace(after, worse=self.worse + 1)
        least = losses if not self.least or sum(losses) < sum(self.least) else self.least
        return replace(after, best=mean_loss(losses, tokens), best_step=self.step, least=tuple(least), worse=0)


def mean_loss(losses: Sequence[float], tokens: Sequence[int]) -> float | None:
    """A token's, in nats; None of no answers."""
    return sum(losses) / sum(tokens) if losses else None


def _above_zero(changes: Sequence[float]) -> bool:
    """Whether the 95% interval of the mean lies above 0, by Student's t; of a single change, that change."""
    from scipy.special import stdtrit

    if len(changes) < 2:
        return sum(changes) > 0
    error = statistics.stdev(changes) / math.sqrt(len(changes))
    return bool(statistics.fmean(changes) > stdtrit(len(changes) - 1, 0.975) * error)


def keep(run: Path, progress: Progress, model: Any, optimizer: Any) -> None:
    """Write a checkpoint whole, then drop those that are neither the newest nor the best.

    Raises:
        StorageError: The disk refused; the checkpoints before are unchanged.
    """
    from safetensors.torch import save_file

    folder = run / f"step-{progress.step:07}"
    with new_folder(folder) as scratch, storage_errors(folder):
        save_file(_tensors(model, optimizer), scratch / "tensors.safetensors")
        (scratch / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
    for old in _folders(run):
        if old != folder and old.name != f"step-{progress.best_step or 0:07}":
            _remove(old)


def newest(run: Path) -> Progress | None:
    """The newest checkpoint; None if there is none."""
    folders = _folders(run)
    if not folders:
        return None
    return Progress(**json.loads((folders[-1] / "progress.json").read_text(encoding="utf-8")))


def restore(run: Path, step: int, model: Any, optimizer: Any | None) -> None:
    """Put weights, and the optimizer's state and the random state with it, back to what they were at `step`."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(run / f"step-{step:07}" / "tensors.safetensors")
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[f"weight/{name}"])
    if optimizer is None:
        return
    for name, parameter in named.items():
        if f"exp_avg/{name}" in tensors:
            optimizer.state[parameter] = {
                "step": tensors[f"step/{name}"],
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random_cuda"])


def drop(run: Path) -> None:
    """Remove every checkpoint: the run is over."""
    for folder in _folders(run):
        _remove(folder)
    for unfinished in run.glob(".step-*"):
        shutil.rmtree(unfinished)


def _remove(folder: Path) -> None:
    """Take the folder out of sight first, so that a crash leaves no half of a checkpoint."""
    hidden = folder.with_name(f".{folder.name}.gone")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _tensors(model: Any, optimizer: Any) -> dict[str, Any]:
    import torch

    tensors = {"random": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"weight/{name}"] = parameter.detach().contiguous()
            for field, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{field}/{name}"] = value.detach().contiguous()
    return tensors


def _folders(run: Path) -> list[Path]:
    return sorted(path for path in run.glob("step-*") if _NAME.fullmatch(path.name))
