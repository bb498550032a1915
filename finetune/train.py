"""One QLoRA run: examples in, a named adapter out.

    train → _tokenise → _fit (_batches, _loss, _validate) → _save

The loop is ours because stock trainers score the whole vocabulary at every position: here only the
positions of the answer are scored, which on a CPU halves the time of a step. Sequences are padded on the
left, so that the answers of a batch stand at its end.
"""

import json
import math
import random
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assistant import prompt
from assistant.base_models import fingerprint, load_model, load_tokenizer
from finetune.examples import Example
from finetune.recipe import Recipe
from retrieval.errors import InputError, SupportError
from retrieval.files import content_id, folder_hashes, new_folder, storage_errors, write_text

VALIDATION_SHARE = 0.05
VALIDATION_MOST = 12
"""Examples; a validation pass takes seconds of a short CPU run."""


@dataclass(frozen=True)
class Result:
    """What a run did; also the metrics file of the run."""

    adapter: str
    """Name of the adapter, also its folder under `adapters/`."""
    examples: int
    left_out: int
    """Examples longer than `max_tokens`."""
    steps: int
    seconds: float
    """Of optimisation, without loading and validation."""
    tokens_per_second: float
    """Prompt and answer, without padding."""
    loss_before: float | None
    """Mean negative log-likelihood per answer token on held-out examples, in nats; None without such examples."""
    loss_after: float | None
    peak_memory_gib: float


def train(
    base: str,
    source: str,
    examples: list[Example],
    recipe: Recipe,
    adapters: Path,
    run: Path,
    facts: dict[str, Any],
) -> Result:
    """Train an adapter for the base model in `source`, named `base`; keep it under `adapters`.

    `run` receives the examples, the TensorBoard curve and `result.json`. `facts` is what the adapter's
    `training.json` shall record about its data.

    Raises:
        InputError: There are too few examples.
        SupportError: The loss became infinite or not a number.
        StorageError: The disk refused; no adapter was kept.
    """
    import datasets
    import torch
    from torch.utils.tensorboard import SummaryWriter

    with storage_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(source)
    rows, left_out = _tokenise(tokenizer, examples, recipe.max_tokens)
    training, validation = _split(rows, examples, recipe.seed)
    if len(training) < recipe.batch_size:
        raise InputError(
            f"{len(training)} examples are too few to train on (one batch is {recipe.batch_size}); "
            "give more logs, or a recipe with a smaller batch_size"
        )
    datasets.disable_progress_bars()
    with storage_errors(run):
        training.save_to_disk(str(run / "examples"))

    torch.manual_seed(recipe.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _with_adapter(load_model(source, recipe.quantize, device), recipe)
    with SummaryWriter(str(run / "tensorboard")) as curve:
        fitted = _fit(model, training, validation, recipe, device, curve)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    name = _save(model, base, source, recipe, adapters, run, facts | asdict(fitted))
    result = Result(
        adapter=name,
        examples=len(training),
        left_out=left_out,
        peak_memory_gib=round(peak, 2),
        **asdict(fitted),
    )
    write_text(run / "result.json", json.dumps(asdict(result), indent=1) + "\n")
    return result


def _tokenise(tokenizer: Any, examples: list[Example], max_tokens: int) -> tuple[list[dict[str, Any]], int]:
    """Token ids of each example, and how many of them at the end are the answer with its stop token."""
    rows = []
    for number, example in enumerate(examples):
        asked = prompt.tokens(tokenizer, example.messages())
        answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if len(asked) + len(answer) <= max_tokens:
            rows.append({"ids": asked + answer, "answer": len(answer), "example": number})
    return rows, len(examples) - len(rows)


def _split(rows: list[dict[str, Any]], examples: list[Example], seed: int) -> tuple[Any, Any]:
    """Training and validation rows; rows with one answer stay on one side."""
    from datasets import Dataset

    by_answer: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_answer.setdefault(examples[row["example"]].answer, []).append(row)
    answers = sorted(by_answer)
    random.Random(seed).shuffle(answers)
    wanted = min(VALIDATION_MOST, int(len(rows) * VALIDATION_SHARE))
    validation: list[dict[str, Any]] = []
    for answer in answers:  # an answer to many questions stays in training whole
        if len(validation) < wanted and len(by_answer[answer]) <= VALIDATION_MOST:
            validation += by_answer[answer]
    kept = {row["example"] for row in validation}
    columns = {"ids": "ids", "answer": "answer", "example": "example"}
    return tuple(
        Dataset.from_dict({name: [row[name] for row in part] for name in columns})
        for part in ([row for row in rows if row["example"] not in kept], validation)
    )


def _with_adapter(model: Any, recipe: Recipe) -> Any:
    """The frozen base with a trainable adapter on every linear layer.

    Hu et al., "LoRA", arXiv 2106.09685; all linear layers: Dettmers et al., "QLoRA", arXiv 2305.14314.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return adapted


@dataclass(frozen=True)
class _Fitted:
    steps: int
    seconds: float
    tokens_per_second: float
    loss_before: float | None
    loss_after: float | None


def _fit(model: Any, training: Any, validation: Any, recipe: Recipe, device: str, curve: Any) -> _Fitted:
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    steps = max(1, math.ceil(len(training) * recipe.epochs / recipe.batch_size))
    steps = min(steps, recipe.max_steps or steps)
    budget_s = recipe.minutes * 60 if recipe.minutes else math.inf
    before = _validate(model, validation, recipe.micro_batch, device)
    model.train()
    started, tokens, step = time.monotonic(), 0, 0
    with tqdm(total=steps, desc="training", unit="step") as bar:
        for batch in _batches(training, recipe, steps):
            spent = time.monotonic() - started
            done = max(step / steps, spent / budget_s)
            if done >= 1:
                break
            rate = recipe.learning_rate * min(1.0, (step + 1) / (recipe.warmup_share * steps + 1e-9), 1 - done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            labelled = sum(row["answer"] for row in batch)
            loss = 0.0
            for start in range(0, len(batch), recipe.micro_batch):
                part = _loss(model, batch[start : start + recipe.micro_batch], device) / labelled
                part.backward()
                loss += part.item()
            if not math.isfinite(loss):
                raise _diverged(step + 1, loss, recipe)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            tokens += sum(len(row["ids"]) for row in batch)
            speed = tokens / (time.monotonic() - started)
            curve.add_scalar("loss/train", loss, step)
            curve.add_scalar("learning_rate", rate, step)
            bar.set_postfix(loss=f"{loss:.3f}", tokens_per_s=f"{speed:.0f}", of_time=f"{done:.0%}")
            bar.update()
    seconds = time.monotonic() - started
    after = _validate(model, validation, recipe.micro_batch, device)
    if after is not None:
        curve.add_scalar("loss/validation", after, step)
    if not all(math.isfinite(value) for value in (*([after] if after is not None else []), _norm(parameters))):
        raise _diverged(step, after, recipe)
    rounded = [None if value is None else round(value, 4) for value in (before, after)]
    return _Fitted(step, round(seconds, 1), round(tokens / seconds, 1), *rounded)


def _norm(parameters: list[Any]) -> float:
    return float(sum(parameter.detach().norm() for parameter in parameters))


def _diverged(step: int, loss: float | None, recipe: Recipe) -> SupportError:
    return SupportError(
        f"training diverged at step {step}: the loss is {loss}; no adapter was kept. "
        f"Lower learning_rate (now {recipe.learning_rate}) in the recipe"
    )


def _batches(training: Any, recipe: Recipe, steps: int) -> Iterator[list[dict[str, Any]]]:
    """`steps` batches of rows of similar length, reshuffled every epoch."""
    chance = random.Random(recipe.seed)
    lengths = [len(ids) for ids in training["ids"]]
    given = 0
    while given < steps:
        order = list(range(len(lengths)))
        chance.shuffle(order)
        pool = recipe.batch_size * 8
        batches = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=lengths.__getitem__)
            batches += [near[i : i + recipe.batch_size] for i in range(0, len(near), recipe.batch_size)]
        chance.shuffle(batches)
        for batch in batches[: steps - given]:
            yield [training[i] for i in batch]
        given += len(batches)


def _loss(model: Any, rows: list[dict[str, Any]], device: str) -> Any:
    """Summed cross-entropy of the answers' tokens, a scalar tensor with gradient."""
    import torch

    width = max(len(row["ids"]) for row in rows)
    answer = max(row["answer"] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, width - len(row["ids"]) :] = torch.tensor(row["ids"])
        mask[i, width - len(row["ids"]) :] = 1
        labels[i, width - row["answer"] :] = torch.tensor(row["ids"][-row["answer"] :])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
            logits_to_keep=answer + 1,
        ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, -answer:].flatten().to(device),
        ignore_index=-100,
        reduction="sum",
    )


def _validate(model: Any, validation: Any, micro_batch: int, device: str) -> float | None:
    """Mean loss per answer token, in nats; None without validation examples."""
    import torch

    rows = sorted(validation, key=lambda row: len(row["ids"]))
    labelled = sum(row["answer"] for row in rows)
    if not labelled:
        return None
    model.eval()
    with torch.no_grad():
        parts = [rows[start : start + micro_batch] for start in range(0, len(rows), micro_batch)]
        losses = [_loss(model, part, device).item() for part in tqdm(parts, desc="validating", leave=False)]
    return float(sum(losses) / labelled)


def _save(model: Any, base: str, source: str, recipe: Recipe, adapters: Path, run: Path, facts: dict[str, Any]) -> str:
    """Write the adapter under a name made of its content; return the name."""
    record = {
        "base": base,
        "base_fingerprint": fingerprint(source),
        "prompt": prompt.ID,
        "recipe": recipe.model_dump(),
        **facts,
    }
    draft = run / "adapter"
    with storage_errors(draft):
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(draft, save_embedding_layers=False)
        (draft / "README.md").unlink(missing_ok=True)  # peft's model card template, all blanks
    weights = folder_hashes(draft)["adapter_model.safetensors"]
    slug = "".join(char if char.isalnum() else "-" for char in base.rstrip("/").split("/")[-1].lower())
    name = f"{slug}-{content_id(weights, record['base_fingerprint'], prompt.ID)}"
    with new_folder(adapters / name) as scratch:
        shutil.copytree(draft, scratch, dirs_exist_ok=True)
        (scratch / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(draft)
    return name
