"""Training speed beside other trainers: same model, rows, rank and steps, one after the other in one run.

    python -m benchmarks.training --run DIR --base FOLDER --work DIR [--trl DIR] [--llamafactory PYTHON]

`--run` is the folder of a finished training run (under ASSISTANT_HOME/runs), whose rows are trained on, and
`--base` the prepared base model. Neither other trainer is a dependency. TRL shares this environment:

    pip install --no-deps --target DIR trl==1.16.0

LLaMA-Factory needs another, whose Python is given:

    pip install llamafactory==0.9.5 torch==2.8.0 torchaudio==2.8.0

Printed for each: prompt and answer tokens a second (the first step not counted), peak memory, and the loss of the
adapter on the run's held-out rows, computed here for all of them; then the ratios to ours.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RANK, ALPHA, RATE = 16, 32, 2e-4
OURS = ("ours, nf4", "ours, bf16 base")
TRL = ("TRL, its defaults", "TRL, best bf16")
LLAMA_FACTORY = "LLaMA-Factory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trl", type=Path)
    parser.add_argument("--llamafactory", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8, help="TRL's default (default: 8)")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.contestant:
        _contest(options)
        return
    names = [*OURS, *(TRL if options.trl else ()), *([LLAMA_FACTORY] if options.llamafactory else [])]
    rows = _rows(options)
    tokens = [sum(len(row["ids"]) for row in rows[i : i + options.batch]) for i in range(0, len(rows), options.batch)]
    print(f"{len(rows)} rows, {sum(tokens)} tokens, {options.steps} steps of {options.batch}")
    results = {}
    for name in names:
        seconds, peak = _train(name, options)
        speed = sum(tokens[1:]) / sum(seconds[1:])
        results[name] = speed, peak, _loss(options, options.work / _slug(name))
        print(f"{name:22}{speed:8.0f} tokens/s{peak:8.2f} GiB   loss {results[name][2]:.4f}", flush=True)
    for name in names[len(OURS) :]:
        for ours in OURS:
            speed, loss = (results[ours][i] / results[name][i] for i in (0, 2))
            print(f"{ours} / {name}: speed {speed:.2f}, loss {loss:.4f}")


def _rows(options: argparse.Namespace) -> list[Any]:
    """The first rows of the run, as many as the steps take."""
    from finetune.dataset import rows

    chosen = rows(options.run, "training")
    return [chosen[i] for i in range(options.steps * options.batch)]


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-").lower()


def _train(name: str, options: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of each step, and peak memory in GiB, of a trainer in a process of its own."""
    if name == LLAMA_FACTORY:
        return _llama_factory(options)
    command = [sys.executable, "-m", "benchmarks.training", "--contestant", name]
    for option in ("run", "base", "work", "trl", "steps", "batch"):
        if getattr(options, option) is not None:
            command += [f"--{option}", str(getattr(options, option))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    kept = json.loads((options.work / f"{_slug(name)}.json").read_text())
    return kept["seconds"], kept["peak"]


def _contest(options: argparse.Namespace) -> None:
    name = options.contestant
    seconds = _ours(options, name) if name in OURS else _trl(options, name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (options.work / f"{_slug(name)}.json").write_text(json.dumps({"seconds": seconds, "peak": peak}))


def _ours(options: argparse.Namespace, name: str) -> list[float]:
    from assistant.options import forget_shapes

    forget_shapes()
    import finetune.train as ours
    from finetune.recipe import read_recipe

    recipe = read_recipe(
        None,
        quantize="nf4" if name == OURS[0] else "none",
        peft={"r": RANK, "lora_alpha": ALPHA},
        learning_rate=RATE,
        warmup_share=0,
        max_steps=options.steps,
        epochs=1,
        batch_size=options.batch,
        micro_batch=2,
        checkpoint_minutes=1000,
    )
    seconds = []
    step = ours._Run._step

    def timed(run: Any, *arguments: Any) -> Any:
        started = time.monotonic()
        progress = step(run, *arguments)
        seconds.append(time.monotonic() - started)
        return progress

    def in_order(rows: int, size: int, count: int, seed: int) -> Any:
        """The rows as the other trainers are given them."""
        return iter([list(range(i, i + size)) for i in range(0, size * count, size)])

    setattr(ours._Run, "_step", timed)  # noqa: B010
    setattr(ours, "batches", in_order)  # noqa: B010
    place = options.work / _slug(name)
    shutil.rmtree(place, ignore_errors=True)
    result = ours.train("base", str(options.base), _rows(options), [], recipe, place, place / "run", {})
    assert result is not None
    (place / result.adapter).rename(place / "adapter")
    return seconds


def _trl(options: argparse.Namespace, name: str) -> list[float]:
    sys.path.append(str(options.trl))
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.monotonic() - self.started)

    best = name == TRL[1]
    tuned: dict[str, Any] = {}
    if best:
        tuned = {"gradient_checkpointing": False, "per_device_train_batch_size": 2}
        tuned["gradient_accumulation_steps"] = options.batch // 2
    rows = _rows(options)
    data = Dataset.from_dict(
        {
            "input_ids": [row["ids"] for row in rows],
            "completion_mask": [[0] * (len(row["ids"]) - row["answer"]) + [1] * row["answer"] for row in rows],
        }
    )
    arguments = {
        "output_dir": str(options.work / _slug(name)),
        "max_steps": options.steps,
        "learning_rate": RATE,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": options.batch,
        "completion_only_loss": True,
        "disable_tqdm": True,
    }
    dtype = torch.bfloat16 if best else "auto"
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.base, dtype=dtype),
        args=SFTConfig(**(arguments | tuned)),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(options.base),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    trainer.train()
    trainer.model.save_pretrained(options.work / _slug(name) / "adapter")
    return seconds


def _llama_factory(options: argparse.Namespace) -> tuple[list[float], float]:
    """By its command line, with its own example for LoRA and nothing changed but what is compared."""
    from transformers import AutoTokenizer

    place = options.work / _slug(LLAMA_FACTORY)
    place.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    texts = []
    for row in _rows(options):
        asked, answer = row["ids"][: -row["answer"]], row["ids"][-row["answer"] : -1]
        texts.append({"instruction": tokenizer.decode(asked), "output": tokenizer.decode(answer)})
    (place / "rows.json").write_text(json.dumps(texts, ensure_ascii=False))
    columns = {"prompt": "instruction", "response": "output"}
    (place / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json", "columns": columns}}))
    recipe = {
        "model_name_or_path": str(options.base),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_target": "all",
        "dataset_dir": str(place),
        "dataset": "rows",
        "template": "empty",
        "cutoff_len": 2048,
        "output_dir": str(place / "adapter"),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": options.batch,
        "learning_rate": RATE,
        "max_steps": options.steps,
        "bf16": True,
        "use_cpu": not _cuda(),
        "report_to": "none",
        "logging_steps": 1,
        "disable_shuffling": True,
        "overwrite_output_dir": True,
    }
    (place / "recipe.yaml").write_text(json.dumps(recipe))
    environment = {**os.environ, "DISABLE_VERSION_CHECK": "1", "CUDA_VISIBLE_DEVICES": "" if not _cuda() else "0"}
    clock = (
        "import json, resource, sys, time\n"
        "from transformers import TrainerCallback\n"
        "from llamafactory.train.tuner import run_exp\n"
        "seconds = []\n"
        "class Clock(TrainerCallback):\n"
        "    def on_step_begin(self, *_, **__): self.started = time.monotonic()\n"
        "    def on_step_end(self, *_, **__): seconds.append(time.monotonic() - self.started)\n"
        "run_exp(json.load(open(sys.argv[1])), callbacks=[Clock()])\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "json.dump({'seconds': seconds, 'peak': peak}, open(sys.argv[2], 'w'))\n"
    )
    result = options.work / f"{_slug(LLAMA_FACTORY)}.json"
    with (place / "log.txt").open("w") as log:
        command = [str(options.llamafactory), "-c", clock, str(place / "recipe.yaml"), str(result)]
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
    kept = json.loads(result.read_text())
    return kept["seconds"], kept["peak"]


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _loss(options: argparse.Namespace, place: Path) -> float:
    """Mean loss per answer token on the run's held-out rows, in nats, on the base in bf16."""
    import torch
    from peft import PeftModel

    from assistant.base_models import load_model
    from finetune.dataset import rows
    from finetune.rows import packed, token_losses

    device = "cuda" if _cuda() else "cpu"
    model = PeftModel.from_pretrained(load_model(str(options.base), "none", device), str(place / "adapter")).eval()
    held_out = rows(options.run, "validation")
    with torch.no_grad():
        losses = [token_losses(model, packed([row], device), device).sum().item() for row in held_out]
    return float(sum(losses) / sum(row["answer"] for row in held_out))


if __name__ == "__main__":
    main()
