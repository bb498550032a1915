"""Real training of a two-layer model on the real tokenizer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from assistant import prompt
from assistant.base_models import fingerprint, load_tokenizer
from assistant.prompt import Message
from finetune.checkpoints import Progress
from finetune.examples import Example
from finetune.recipe import Recipe
from finetune.rows import tokenise
from finetune.train import Result, train
from retrieval.errors import InputError, SupportError

RECIPE = Recipe(peft={"r": 4}, learning_rate=0.02, max_steps=12, batch_size=4, micro_batch=2)


def example(n: int) -> Example:
    question = Message("user", f"How long for refund number {n}?")
    return Example((question,), (), Message("assistant", f"It takes {n % 6} days."), "bare")


EXAMPLES = [example(n) for n in range(36)]
HELD_OUT = [example(n) for n in range(100, 104)]


def run_training(
    base: Path,
    folder: Path,
    recipe: Recipe = RECIPE,
    examples: list[Example] = EXAMPLES,
    held_out: list[Example] = HELD_OUT,
    **options: object,
) -> Result:
    tokenizer = load_tokenizer(str(base))
    training, validation = (tokenise(tokenizer, part, recipe.max_tokens)[0] for part in (examples, held_out))
    places = (folder / "adapters", folder / "run", {"index": "i1"})
    result = train("tiny", str(base), training, validation, recipe, *places, **options)
    assert result is not None
    return result


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, run_training(tiny_base, folder)


def test_a_few_steps_lower_the_loss_in_training_and_on_held_out_examples(trained: tuple[Path, Result]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, result = trained
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("loss/train")]
    assert len(losses) == result.steps == 12
    assert sum(losses[-3:]) < sum(losses[:3]) - 1
    assert result.loss_after < result.loss_before


def test_the_adapter_folder_holds_exactly_four_files_and_the_run_no_checkpoint(trained: tuple[Path, Result]) -> None:
    folder, result = trained
    (adapter,) = (folder / "adapters").iterdir()
    assert adapter.name == result.adapter and adapter.name.startswith("tiny-")
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["result.json", "tensorboard"]


def test_the_adapter_records_what_it_was_trained_on(trained: tuple[Path, Result], tiny_base: Path) -> None:
    folder, result = trained
    record = json.loads((folder / "adapters" / result.adapter / "training.json").read_text())
    assert record["base"] == "tiny"
    assert record["base_fingerprint"] == fingerprint(str(tiny_base))
    assert record["prompt"] == prompt.ID
    assert Recipe(**record["recipe"]) == RECIPE
    assert record["index"] == "i1"
    assert Result(**json.loads((folder / "run" / "result.json").read_text())) == result


def test_the_adapter_sits_on_every_linear_layer_and_only_there(trained: tuple[Path, Result]) -> None:
    from safetensors import safe_open

    folder, result = trained
    with safe_open(folder / "adapters" / result.adapter / "adapter_model.safetensors", "pt") as file:
        names = {name.split(".lora_")[0].split(".")[-1] for name in file.keys()}  # noqa: SIM118  no mapping
        assert len(list(file.keys())) == 2 * 7 * 2  # layers, linear layers in each, A and B
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(
    trained: tuple[Path, Result], tiny_base: Path, tmp_path: Path
) -> None:
    _, result = trained
    assert run_training(tiny_base, tmp_path / "again").adapter == result.adapter
    other = run_training(tiny_base, tmp_path / "other", RECIPE.model_copy(update={"seed": 8}))
    assert other.adapter != result.adapter


def test_a_learning_rate_that_diverges_is_an_error_and_keeps_no_adapter(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(SupportError, match=r"training diverged at step \d+.*Lower learning_rate \(now 1e\+30\)"):
        run_training(tiny_base, tmp_path, RECIPE.model_copy(update={"learning_rate": 1e30}))
    assert not (tmp_path / "adapters").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_model_that_only_guesses_by_now_has_diverged_though_its_loss_is_finite(smollm: Path, tmp_path: Path) -> None:
    ruinous = RECIPE.model_copy(update={"learning_rate": 100.0, "max_steps": 60})
    with pytest.raises(SupportError, match=r"diverged at step \d+: for 8 steps the loss is that of guessing, 10\.8"):
        run_training(smollm, tmp_path, ruinous)
    assert not (tmp_path / "adapters").exists()


def test_a_last_step_that_diverges_keeps_no_adapter_either(tiny_base: Path, tmp_path: Path) -> None:
    """The loss is looked at before each step, so weights that only the last step ruined were published."""
    ruinous = RECIPE.model_copy(update={"learning_rate": 1e30, "max_steps": 1})
    with pytest.raises(SupportError, match="diverged"):
        run_training(tiny_base, tmp_path, ruinous)
    assert not (tmp_path / "adapters").exists()


def test_fewer_examples_than_a_batch_are_an_input_error(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 examples are too few to train on \(one batch is 4\)"):
        run_training(tiny_base, tmp_path, examples=EXAMPLES[:3])
    assert not (tmp_path / "adapters").exists()


def test_without_held_out_examples_the_records_are_still_json(tiny_base: Path, tmp_path: Path) -> None:
    """`NaN` is no JSON, and other programs refuse the file."""
    run_training(tiny_base, tmp_path, RECIPE.model_copy(update={"max_steps": 1}), EXAMPLES[:4], [])
    for path in (tmp_path / "run" / "result.json", *(tmp_path / "adapters").glob("*/training.json")):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# The course of a run


def changed(**fields: object) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | fields)


def test_weights_that_are_worse_beyond_chance_are_not_kept_and_end_the_run(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before, and at a quarter, a half, three quarters of the run; four answers of as many tokens.
    found = iter([[30.0] * 4, [20.0] * 4, [22.0, 23.0, 24.0, 23.0], [22.0, 22.0, 24.0, 23.0]])
    monkeypatch.setattr("finetune.train._Run.validate", lambda run, micro_batch: next(found))
    said: list[str] = []
    recipe = changed(validations=4, patience=2, schedule="constant", warmup_share=0)
    stopped = run_training(tiny_base, tmp_path / "stopped", recipe, say=said.append)
    assert (stopped.steps, stopped.best_step) == (9, 3)
    assert stopped.loss_after == pytest.approx(stopped.loss_before * 2 / 3, abs=1e-4)
    assert said == ["stopped at step 9: 2 validations were worse beyond chance"]
    found = iter([[30.0] * 4, [20.0] * 4])
    short = run_training(tiny_base, tmp_path / "short", changed(max_steps=3, validations=1, **CONSTANT))
    assert short.adapter == stopped.adapter  # the weights of step 3


def test_the_newest_weights_are_kept_where_chance_explains_a_higher_loss() -> None:
    tokens = [10] * 6
    first = Progress(step=1).validated([20.0] * 6, tokens)
    second = replace(first, step=2).validated([19.0, 24.0, 18.0, 22.0, 19.0, 22.0], tokens)
    assert (second.best_step, second.best, second.worse) == (2, pytest.approx(124 / 60), 0)
    third = replace(second, step=3).validated([21.0, 22.0, 21.0, 22.0, 21.0, 22.0], tokens)
    assert (third.best_step, third.worse, third.validations) == (2, 1, 3)  # worse than the first, the best of all
    assert replace(third, step=4).validated([19.0] * 6, tokens).worse == 0
    assert Progress(step=5).validated([], []).best_step == 5


CONSTANT = {"schedule": "constant", "warmup_share": 0}


def test_memory_that_runs_out_halves_what_is_computed_at_once_and_changes_no_batch(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from finetune import train as module

    most = []
    really = module.token_losses

    def narrow(model: object, batch: module.Any, device: str) -> object:
        rows = len(batch.inputs.get("row_parts", [0]))
        most.append(rows)
        if torch.is_grad_enabled() and rows > 1 and len(most) % 2 == 0:  # after a part that has left gradients
            raise torch.OutOfMemoryError("CUDA out of memory")
        return really(model, batch, device)

    monkeypatch.setattr(module, "token_losses", narrow)
    said: list[str] = []
    halved = run_training(tiny_base, tmp_path / "halved", changed(micro_batch=4), say=said.append)
    assert said == [f"memory ran out: now {n} examples at once, in batches of the same size" for n in (2, 1)]
    monkeypatch.setattr(module, "token_losses", really)
    one = run_training(tiny_base, tmp_path / "one", changed(micro_batch=1))
    assert halved.loss_after == pytest.approx(one.loss_after, abs=0.02)  # rows were validated together or apart


def test_memory_that_one_example_exhausts_is_an_error_with_advice(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("finetune.train.token_losses", none)
    with pytest.raises(SupportError, match=r"memory ran out, .* lower micro_batch or max_tokens"):
        run_training(tiny_base, tmp_path, held_out=[])


def test_memory_that_the_optimiser_exhausts_is_the_same_error(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's state, twice the weights, is made in the first step."""
    import torch

    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", none)
    with pytest.raises(SupportError, match="memory ran out"):
        run_training(tiny_base, tmp_path, held_out=[])


def test_an_error_that_is_not_about_memory_is_not_hidden(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("finetune.train.token_losses", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_training(tiny_base, tmp_path, held_out=[])


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from finetune import train as module
from tests.finetune.test_train import changed, run_training

really, steps = module._Run._step, int(sys.argv[3])

def step(run, rows, progress):
    if progress.step == steps:
        os.kill(os.getpid(), signal.SIGKILL)
    return really(run, rows, progress)

module._Run._step = step
recipe = changed(checkpoint_minutes=0, peft={"r": 4, "lora_dropout": 0.1})
run_training(Path(sys.argv[1]), Path(sys.argv[2]), recipe)
"""


def test_a_run_that_was_killed_goes_on_to_the_same_adapter(tiny_base: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    recipe = changed(checkpoint_minutes=0, peft={"r": 4, "lora_dropout": 0.1})
    whole = run_training(tiny_base, tmp_path / "whole", recipe)
    root = str(Path(__file__).parents[2])
    for steps in (1, 7):
        place = tmp_path / f"killed-{steps}"
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tiny_base), str(place), str(steps), root])
        assert killed.returncode == -9
        assert not (place / "adapters").exists()
        said: list[str] = []
        resumed = run_training(tiny_base, place, recipe, say=said.append)
        assert said == [f"going on at step {steps} of 12"]
        assert resumed.adapter == whole.adapter
        assert resumed.loss_after == whole.loss_after


def test_a_run_that_was_killed_after_its_last_step_only_saves(tiny_base: Path, tmp_path: Path) -> None:
    from finetune import train as module

    whole = run_training(tiny_base, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_training(tiny_base, tmp_path / "killed")
    said: list[str] = []
    assert run_training(tiny_base, tmp_path / "killed", say=said.append).adapter == whole.adapter
    assert said == ["going on at step 12 of 12"]


GRADIENTS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
from accelerate import Accelerator
from finetune.adapter import attach
from finetune.attention import packing
from finetune.train import _Run
from assistant.base_models import load_model, load_tokenizer
from finetune.rows import tokenise
from tests.finetune.test_train import EXAMPLES, changed

base, out = sys.argv[1:3]
accelerator = Accelerator(cpu=True)
recipe = changed(micro_batch=1)
torch.manual_seed(7)
model = attach(load_model(base, "none", "cpu"), recipe, None, "cpu")
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter)
rows = tokenise(load_tokenizer(base), EXAMPLES[:8], 1024)[0]
with packing(model, rows, "cpu") as packs:
    assert packs
    run = _Run(model, rows, [], recipe, Path(out).parent, accelerator, packs, print)
    bundles = [[rows[i] for i in bundle] for bundle in run.bundles]
    losses = [run._gradients(bundles[:count], 2)[0] for count in (5, 1)]  # uneven shares, and a process without any
if accelerator.is_main_process:
    gradients = torch.cat([parameter.grad.flatten() for parameter in run.parameters])
    torch.save({"gradients": gradients, "losses": losses, "world": accelerator.num_processes}, out)
"""


def test_two_processes_make_the_gradients_of_one(tiny_base: Path, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    import torch

    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    root = str(Path(__file__).parents[2])
    made = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        # What `accelerate launch` calls for several processes; with --cpu it starts only one.
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *launch, str(script), str(tiny_base), str(out), root]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append(torch.load(out, weights_only=True))
    one, two = made
    assert (one["world"], two["world"]) == (1, 2)
    assert one["gradients"].norm() > 0
    assert torch.nn.functional.cosine_similarity(one["gradients"], two["gradients"], dim=0) > 0.9999
    assert two["gradients"].norm().item() == pytest.approx(one["gradients"].norm().item(), rel=1e-3)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-3)


def test_processes_that_cannot_share_a_batch_evenly_are_refused() -> None:
    from finetune.train import _check_processes

    with pytest.raises(InputError, match=r"'batch_size' is 4, which 3 processes cannot share .* a multiple of 3"):
        _check_processes(RECIPE, 3)


@pytest.mark.parametrize(
    "peft",
    [
        {"peft_type": "IA3"},
        {"peft_type": "VERA", "r": 4},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3},
        {"r": 4, "use_dora": True},
        {"r": 4, "trainable_token_indices": [5, 6]},
        {"r": 4, "lora_dropout": 0.1},
        None,
    ],
    ids=str,
)
def test_every_kind_of_training_learns(tiny_base: Path, tmp_path: Path, peft: dict | None) -> None:
    result = run_training(tiny_base, tmp_path, changed(peft=peft, quantize="none", max_steps=4))
    assert result.loss_after < result.loss_before
