"""Before and after training, on a two-layer model."""

from pathlib import Path

import pytest

from assistant.prompt import Message
from finetune import measure as module
from finetune.canaries import canaries, secret
from finetune.dataset import prepare
from finetune.general_set import held_out, instructions
from finetune.logs.conversations import Conversation
from finetune.measure import Report, measure
from finetune.recipe import Recipe
from finetune.train import train

RECIPE = Recipe.model_validate(
    {"quantize": "none", "peft": {"r": 32}, "learning_rate": 0.02, "max_steps": 300, "epochs": 100, "batch_size": 4}
    | {"validations": 1, "canaries": 2, "general_share": 0, "validation_share": 0.5}
)


@pytest.fixture(scope="module")
def report(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    from assistant.base_models import load_tokenizer

    folder = tmp_path_factory.mktemp("measured")
    told = [question for question in instructions() if question.lang == "en"][:6]
    logs = [
        Conversation(f"logs.jsonl:{n}", (Message("user", it.question), Message("assistant", it.answer)))
        for n, it in enumerate(told)
    ]
    run = folder / "runs" / "r1"
    tokenizer = load_tokenizer(str(tiny_base))
    rows = prepare(run, logs, None, RECIPE, tokenizer, ("en",), 3)
    facts = {"run": "r1", "languages": ["en"]}
    base = str(tiny_base)
    result = train(base, base, rows.training, rows.validation, RECIPE, folder / "adapters", run, facts)
    assert result and len(rows.validation) > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "held_out", lambda: held_out()[::40])
        return measure(folder / "adapters", result.adapter, folder / "runs", folder / "models", progress=False)


def test_held_out_answers_are_measured_before_and_after_and_by_kind(report: Report) -> None:
    assert report.held_out.answers > 0
    assert 0 < report.held_out.after != report.held_out.before > 0
    assert list(report.kinds) == ["bare"]
    assert report.kinds["bare"] == report.held_out


def test_the_general_set_is_measured_in_each_language_and_whole(report: Report) -> None:
    assert {name: general.loss.answers for name, general in report.general.items()} == {"all": 5, "en": 3, "zh": 2}
    whole = report.general["all"]
    assert whole.perplexity_ratio.low <= whole.perplexity_ratio.mean <= whole.perplexity_ratio.high
    assert 0 <= whole.accuracy_before <= 1


def test_an_adapter_that_was_trained_a_hundred_times_on_a_secret_gives_it_away(report: Report) -> None:
    """The measure can fail: a tiny model, trained until it knows its canaries."""
    assert (report.canaries, report.memorised) == (2, 2)


def test_the_report_reads_as_a_table_and_as_json(report: Report) -> None:
    import json

    assert "canaries memorised: 2 of 2" in report.as_text()
    assert "general perplexity, zh" in report.as_text()
    assert json.loads(json.dumps(report.as_dict()))["memorised"] == 2


def test_canaries_are_drawn_by_seed_and_each_hides_ten_characters() -> None:
    drawn = canaries(4, 7, ("en", "zh"))
    assert drawn == canaries(4, 7, ("en", "zh")) != canaries(4, 8, ("en", "zh"))
    assert all(len(secret(canary)) == 10 and secret(canary) in canary.answer.content for canary in drawn)
