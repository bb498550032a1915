"""One training run: rows in, a named adapter out; killed at any moment, it goes on where it was.

    train → _Run.fit (batches → gradients → step → validate → checkpoint) → adapter.save

The loop is ours because stock trainers score the whole vocabulary at every position: here only the positions
of the answer are scored, which on a CPU halves the time of a step. Under `accelerate launch` every process
computes its share of each batch, and the gradients are those of one process.
"""

import contextlib
import itertools
import json
import math
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assistant.base_models import load_model
from finetune import checkpoints
from finetune.adapter import attach, save, unservable
from finetune.attention import packing
from finetune.checkpoints import Progress, mean_loss
from finetune.recipe import Recipe
from finetune.rows import Row, batches, bundles, packed, token_losses
from retrieval.errors import InputError, SupportError
from retrieval.files import storage_errors, write_text

_GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm."""
_RUINED_STEPS = 8
"""In a row at the loss of guessing, after which a training has diverged."""


@dataclass(frozen=True)
class Result:
    """What a run did; also the metrics file of the run."""

    adapter: str
    """Name of the adapter, also its folder under `adapters/`."""
    examples: int
    held_out: int
    """Examples that the loss was validated on."""
    steps: int
    best_step: int | None
    """The step whose weights were kept."""
    seconds: float
    """Of optimisation, without loading and validation."""
    tokens_per_second: float
    """Prompt and answer, without padding."""
    loss_before: float | None
    """Mean negative log-likelihood per answer token on held-out examples, in nats; None without such examples."""
    loss_after: float | None
    """The same, of the weights that were kept."""
    peak_memory_gib: float


def train(
    base: str,
    source: str,
    training: Sequence[Row],
    validation: Sequence[Row],
    recipe: Recipe,
    adapters: Path,
    run: Path,
    facts: Mapping[str, Any],
    start: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Result | None:
    """Train on the base model in `source`, named `base`; keep what was learned under `adapters`.

    `run` receives the TensorBoard curve, checkpoints while it lasts, and `result.json`. `facts` is what the
    adapter's `training.json` shall record about its data. `start` is the folder of an adapter to begin with. The
    result is None in every process but the first.

    Raises:
        InputError: There are too few rows, or the recipe cannot be carried out.
        SupportError: The loss became infinite or not a number, or memory ran out.
        StorageError: The disk refused; no adapter was kept.
    """
    import torch
    from accelerate import Accelerator

    if len(training) < recipe.batch_size:
        raise InputError(
            f"{len(training)} examples are too few to train on (one batch is {recipe.batch_size}); "
            "give more logs, or a recipe with a smaller batch_size"
        )
    reason = unservable(recipe.peft_fields)
    if reason:
        say(f"{reason}; it can be served only where it is merged into the base: assistant merge")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with storage_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=device == "cpu", log_with=trackers(recipe), project_dir=str(run))
    _check_processes(recipe, accelerator.num_processes)
    accelerator.init_trackers("tensorboard")  # also the name of its folder
    torch.manual_seed(recipe.seed)
    model = attach(load_model(source, recipe.quantize, str(accelerator.device)), recipe, start, device)
    with _memory(recipe), packing(model, training, device) as packs:
        if not packs:
            say("this base, or this kind of adapter, mixes rows that are packed: examples are computed one by one")
        progress = _Run(model, training, validation, recipe, run, accelerator, packs, say).fit()
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    fitted: dict[str, Any] = {
        "examples": len(training),
        "held_out": len(validation),
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "loss_before": _rounded(progress.before),
        "loss_after": _rounded(progress.best),
    }
    lasting = {name: fitted[name] for name in ("examples", "steps", "best_step", "loss_before", "loss_after")}
    name = save(model, base, source, recipe, adapters, run / "adapter", {**facts, "metrics": lasting})
    result = Result(adapter=name, peak_memory_gib=round(peak, 2), **fitted)
    write_text(run / "result.json", json.dumps(asdict(result), indent=1) + "\n")
    checkpoints.drop(run)
    return result


def trackers(recipe: Recipe) -> list[str]:
    """TensorBoard and those of the recipe.

    Raises:
        InputError: One is not installed: accelerate would keep nothing, silently.
    """
    from accelerate.tracking import get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()]
    missing = [name for name in recipe.trackers if name not in installed]
    if missing:
        raise InputError(
            f"recipe field 'trackers': {missing[0]!r} is unknown or not installed; installed are {', '.join(installed)}"
        )
    return ["tensorboard", *recipe.trackers]


@contextlib.contextmanager
def _memory(recipe: Recipe) -> Iterator[None]:
    """Say what to do where memory runs out, and halving the examples at once is no help."""
    try:
        yield
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        raise SupportError(
            f"memory ran out, with examples of at most {recipe.max_tokens} tokens; lower micro_batch or max_tokens, or "
            "set gradient_checkpointing: true in the recipe"
        ) from error


def _check_processes(recipe: Recipe, processes: int) -> None:
    if recipe.batch_size % processes:
        raise InputError(
            f"recipe field 'batch_size' is {recipe.batch_size}, which {processes} processes cannot share evenly; "
            f"make it a multiple of {processes}"
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


class _Run:
    """A model on its way through the batches."""

    def __init__(
        self,
        model: Any,
        training: Sequence[Row],
        validation: Sequence[Row],
        recipe: Recipe,
        run: Path,
        accelerator: Any,
        packs: bool,
        say: Callable[[str], None],
    ) -> None:
        import torch

        self.model = model
        self.training = training
        self.bundles = bundles(training, recipe.max_tokens if packs else 0)
        self.validation = list(validation)
        self.tokens = [row["answer"] for row in self.validation]
        self.recipe = recipe
        self.folder = run
        self.accelerator = accelerator
        self.say = say
        self.device = accelerator.device.type
        self.packs = packs
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=0.0)
        self.parallel = model
        if accelerator.num_processes > 1:
            self.parallel = torch.nn.parallel.DistributedDataParallel(model)
        steps = max(1, math.ceil(len(self.bundles) * recipe.epochs / recipe.batch_size))
        self.steps = min(steps, recipe.max_steps or steps)
        self.budget_s = recipe.minutes * 60 if recipe.minutes else math.inf
        self.lowest = math.inf
        self.recent: deque[float] = deque(maxlen=_RUINED_STEPS)

    def fit(self) -> Progress:
        """Go through the batches to the end; the model then has the weights that are kept."""
        progress = checkpoints.newest(self.folder)
        if progress:
            checkpoints.restore(self.folder, progress.step, self.model, self.optimizer)
            self.say(f"going on at step {progress.step} of {self.steps}")
        else:
            before = mean_loss(self.validate(self.recipe.micro_batch), self.tokens)
            progress = Progress(before=before, micro_batch=self.recipe.micro_batch)
        self.model.train()
        kept_at = time.monotonic()
        order = batches(len(self.bundles), self.recipe.batch_size, self.steps, self.recipe.seed)
        for _ in range(progress.step):
            next(order)
        ended = self._ended(progress)
        with tqdm(
            total=self.steps, initial=progress.step, desc="training", unit="step", disable=not self._first
        ) as bar:
            while not ended:
                started = time.monotonic()
                batch = [[self.training[row] for row in self.bundles[i]] for i in next(order)]
                progress, loss = self._step(batch, progress)
                progress = replace(progress, seconds=progress.seconds + time.monotonic() - started)
                self._show(bar, progress, loss)
                done = self._done(progress)
                if done >= 1 or done >= (progress.validations + 1) / self.recipe.validations:
                    losses = self.validate(progress.micro_batch)
                    progress = progress.validated(losses, self.tokens)
                    held_out = mean_loss(losses, self.tokens)
                    if held_out is not None:
                        self.accelerator.log({"loss/validation": held_out}, step=progress.step)
                        self._check_finite(held_out, progress.step)
                    self.model.train()
                    ended = self._ended(progress)
                    self._keep(progress)
                elif time.monotonic() - kept_at >= self.recipe.checkpoint_minutes * 60:
                    self._keep(progress)
                    kept_at = time.monotonic()
        if progress.worse >= self.recipe.patience:
            self.say(f"stopped at step {progress.step}: {progress.worse} validations were worse beyond chance")
        if progress.best_step is not None and progress.best_step != progress.step:
            checkpoints.restore(self.folder, progress.best_step, self.model, None)
        self.accelerator.wait_for_everyone()  # before the first process drops the checkpoints
        self._check_finite(float(sum(parameter.detach().norm() for parameter in self.parameters)), progress.step)
        return progress

    @property
    def _first(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _ended(self, progress: Progress) -> bool:
        return progress.step > 0 and (self._done(progress) >= 1 or progress.worse >= self.recipe.patience)

    def _done(self, progress: Progress) -> float:
        """The share of the run that is over, by steps or by time; the same in every process."""
        seconds = progress.seconds
        if self.accelerator.num_processes > 1 and self.recipe.minutes:
            import torch

            seconds = float(self.accelerator.reduce(torch.tensor(seconds, device=self.accelerator.device), "mean"))
        return max(progress.step / self.steps, seconds / self.budget_s)

    def _step(self, batch: list[list[Row]], progress: Progress) -> tuple[Progress, float]:
        """One optimiser step over a batch of bundles, and its mean loss per answer token."""
        import torch

        rate = self.recipe.learning_rate * self._factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, micro_batch = self._gradients(batch, progress.micro_batch)
        self._check_finite(loss, progress.step + 1)
        self._check_not_guessing(loss, progress.step + 1)
        torch.nn.utils.clip_grad_norm_(self.parameters, _GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress = replace(
            progress,
            step=progress.step + 1,
            tokens=progress.tokens + sum(len(row["ids"]) for bundle in batch for row in bundle),
            micro_batch=micro_batch,
        )
        self.accelerator.log({"loss/train": loss, "learning_rate": rate}, step=progress.step)
        return progress, loss

    def _show(self, bar: Any, progress: Progress, loss: float) -> None:
        speed = f"{progress.tokens / progress.seconds:.0f}"
        shown = {"loss": f"{loss:.3f}", "tokens_per_s": speed, "GiB": f"{_memory_gib():.1f}"}
        if self.recipe.minutes:
            shown["of_time"] = f"{progress.seconds / self.budget_s:.0%}"
        bar.set_postfix(shown)
        bar.update()

    def _factor(self, progress: Progress) -> float:
        """The learning rate as a share of its peak."""
        done = min(self._done(progress), 1.0)
        fall = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        share = self.recipe.warmup_share + 1e-9
        warm = max((progress.step + 1) / (share * self.steps), done / share)
        return min(1.0, warm, fall[self.recipe.schedule])

    def _gradients(self, batch: list[list[Row]], micro_batch: int) -> tuple[float, int]:
        """Gradients of a batch's mean loss per answer token, that loss, and how many bundles fit at once."""
        import torch

        world, mine = self.accelerator.num_processes, self.accelerator.process_index
        labelled = sum(row["answer"] for bundle in batch for row in bundle)
        share = batch[mine::world]
        while True:
            try:
                total = torch.zeros((), device=self.accelerator.device)
                parts = list(self._parts(share or batch[:1], micro_batch))
                for i, part in enumerate(parts):
                    last = i == len(parts) - 1
                    with contextlib.nullcontext() if last or world == 1 else self.parallel.no_sync():
                        loss = token_losses(self.parallel, part, self.device).sum() / labelled
                        if not share:
                            loss = loss * 0  # more processes than bundles: take part in the exchange, add nothing
                        (loss * world).backward()  # which averages over processes
                        total += loss.detach()
                return float(self.accelerator.reduce(total, "sum")), micro_batch
            except RuntimeError as error:
                if not _out_of_memory(error) or micro_batch == 1 or world > 1:
                    raise
                self.optimizer.zero_grad()
                micro_batch //= 2
                self.say(f"memory ran out: now {micro_batch} examples at once, in batches of the same size")

    def _parts(self, bundles: Sequence[Sequence[Row]], micro_batch: int) -> Iterator[Any]:
        """The batches that are computed at once."""
        at_once = micro_batch if self.packs else 1
        for start in range(0, len(bundles), at_once):
            yield packed(list(itertools.chain.from_iterable(bundles[start : start + at_once])), self.device)

    def validate(self, micro_batch: int) -> list[float]:
        """The loss of each held-out answer, in nats."""
        import torch

        self.model.eval()
        with torch.no_grad():
            parts = self._parts([[row] for row in self.validation], micro_batch)
            shown = tqdm(parts, desc="validating", leave=False, disable=not self._first or not self.validation)
            losses = [loss for part in shown for loss in token_losses(self.model, part, self.device).tolist()]
        ends = list(itertools.accumulate(self.tokens))
        return [sum(losses[end - count : end]) for end, count in zip(ends, self.tokens, strict=True)]

    def _keep(self, progress: Progress) -> None:
        if self._first:
            checkpoints.keep(self.folder, progress, self.model, self.optimizer)

    def _check_finite(self, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise self._diverged(step, f"the loss is {value}")

    def _check_not_guessing(self, loss: float, step: int) -> None:
        """Raise where a model that knew better gives every token the same chance by now: it does not come back."""
        self.lowest = min(self.lowest, loss)
        self.recent.append(loss)
        guessing = math.log(self.model.config.get_text_config().vocab_size)
        if len(self.recent) == _RUINED_STEPS and min(self.recent) > 0.95 * guessing and self.lowest < guessing / 2:
            raise self._diverged(step, f"for {_RUINED_STEPS} steps the loss is that of guessing, {guessing:.1f}")

    def _diverged(self, step: int, how: str) -> SupportError:
        return SupportError(
            f"training diverged at step {step}: {how}; no adapter was kept. "
            f"Lower learning_rate (now {self.recipe.learning_rate}) in the recipe"
        )


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _memory_gib() -> float:
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.memory_allocated()) / 2**30
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize() / 2**30
