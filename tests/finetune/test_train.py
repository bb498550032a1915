"""Real training of a two-layer model on the real tokenizer."""

import json
import math
from pathlib import Path

import pytest

from assistant import prompt
from assistant.base_models import fingerprint, load_model, load_tokenizer
from assistant.prompt import Message
from finetune.examples import Example
from finetune.recipe import Recipe
from finetune.train import Result, _loss, _split, _tokenise, train
from retrieval.errors import InputError, SupportError

RECIPE = Recipe(rank=4, learning_rate=0.02, max_steps=12, batch_size=4, micro_batch=2)
EXAMPLES = [
    Example((Message("user", f"How long for refund number {n}?"),), (), f"It takes {n % 6} days.", "bare")
    for n in range(40)
]


def run_training(base: Path, folder: Path, recipe: Recipe = RECIPE, examples: list[Example] = EXAMPLES) -> Result:
    return train("tiny", str(base), examples, recipe, folder / "adapters", folder / "run", {"index": "i1"})


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


def test_the_adapter_folder_holds_exactly_three_files(trained: tuple[Path, Result]) -> None:
    folder, result = trained
    (adapter,) = (folder / "adapters").iterdir()
    assert adapter.name == result.adapter and adapter.name.startswith("tiny-")
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    assert sorted(path.name for path in (folder / "run").iterdir()) == ["examples", "result.json", "tensorboard"]


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
    """Four examples leave none for validation; `NaN` is no JSON, and other programs refuse the file."""
    run_training(tiny_base, tmp_path, RECIPE.model_copy(update={"max_steps": 1}), EXAMPLES[:4])
    for path in (tmp_path / "run" / "result.json", *(tmp_path / "adapters").glob("*/training.json")):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# The rows


def test_a_row_is_the_serving_prompt_and_the_answer_with_its_stop_token(smollm: Path) -> None:
    tokenizer = load_tokenizer(str(smollm))
    (row,), left_out = _tokenise(tokenizer, EXAMPLES[:1], 1024)
    asked, answer = row["ids"][: -row["answer"]], row["ids"][-row["answer"] :]
    assert asked == prompt.tokens(tokenizer, EXAMPLES[0].messages())
    assert tokenizer.decode(answer) == "It takes 0 days.<|im_end|>"
    assert (row["example"], left_out) == (0, 0)


def test_examples_that_are_too_long_are_left_out_and_counted(smollm: Path) -> None:
    tokenizer = load_tokenizer(str(smollm))
    length = len(_tokenise(tokenizer, EXAMPLES[:1], 1024)[0][0]["ids"])
    assert _tokenise(tokenizer, EXAMPLES[:1], length)[1] == 0
    assert _tokenise(tokenizer, EXAMPLES[:1], length - 1) == ([], 1)


def test_an_answer_is_never_on_both_sides_of_the_split() -> None:
    rows = [{"ids": [n], "answer": 1, "example": n} for n in range(40)]
    training, validation = _split(rows, EXAMPLES, seed=7)
    answers = [{EXAMPLES[row["example"]].answer for row in part} for part in (training, validation)]
    assert not answers[0] & answers[1]
    assert len(validation) >= 2


# The loss

SHORT = {"ids": [11, 12, 13, 14, 15], "answer": 2, "example": 0}
LONG = {"ids": [21, 22, 23, 24, 25, 26, 27, 28, 29], "answer": 4, "example": 1}


@pytest.fixture(scope="module")
def model(tiny_base: Path):
    return load_model(str(tiny_base), "none", "cpu").float().eval()


def test_the_loss_is_the_sum_of_minus_log_probabilities_of_the_answers_tokens(model) -> None:
    import torch

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=torch.tensor([SHORT["ids"]])).logits[0].float()
    chances = torch.log_softmax(logits, dim=-1)
    # The answer is 14, 15: the token at position 2 predicts the first, the one at 3 the second.
    by_hand = -(chances[2, 14] + chances[3, 15]).item()
    assert _loss(model, [SHORT], "cpu").item() == pytest.approx(by_hand, rel=1e-3)


def test_padding_does_not_change_the_loss(model) -> None:
    alone = _loss(model, [SHORT], "cpu").item() + _loss(model, [LONG], "cpu").item()
    assert _loss(model, [SHORT, LONG], "cpu").item() == pytest.approx(alone, rel=1e-2)
    assert _loss(model, [LONG, SHORT], "cpu").item() == pytest.approx(alone, rel=1e-2)


def test_only_the_answers_tokens_have_labels(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loss function is given: -100, which it ignores, before each answer."""
    import torch

    given = []
    entropy = torch.nn.functional.cross_entropy

    def look(logits, labels, **options):
        given.append(labels.tolist())
        return entropy(logits, labels, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", look)
    _loss(model, [SHORT, LONG], "cpu")
    assert given == [[-100, -100, 14, 15, 26, 27, 28, 29]]


def test_gradients_flow_from_answers_and_micro_batches_add_up_to_the_batch(model) -> None:
    import torch

    def gradient(*batches) -> "torch.Tensor":
        model.zero_grad()
        for rows in batches:
            _loss(model, rows, "cpu").backward()
        return model.model.layers[0].mlp.up_proj.weight.grad.flatten().clone()

    together, apart = gradient([SHORT, LONG]), gradient([SHORT], [LONG])
    assert together.norm() > 0
    assert torch.nn.functional.cosine_similarity(together, apart, dim=0) > 0.999
    assert math.isclose(together.norm(), apart.norm(), rel_tol=0.02)
