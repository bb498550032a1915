import itertools
import json
from pathlib import Path

import pytest

from assistant import prompt, releases
from assistant.settings import Settings
from finetune import run as training_run
from finetune.recipe import Recipe
from finetune.run import train_on_logs
from finetune.train import Result
from retrieval.errors import InputError

RECIPE = Recipe(peft={"r": 2}, max_steps=1, batch_size=2, canaries=0, general_share=0)


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path) -> Settings:
    return Settings(home=tmp_path / "home", base=str(tiny_base))


def write_logs(path: Path, word: str = "refund", bad: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"How long for {word} {n}?"},
                    {"role": "assistant", "content": f"It takes about {n} days for a {word}."},
                ]
            }
        )
        for n in range(4)
    ]
    path.write_text("\n".join([*lines, "card 4111 1111 1111 1111"] if bad else lines) + "\n")
    return path


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The adapters that were really trained, in order."""
    done: list[str] = []
    really = training_run.train

    def count(*arguments: object) -> Result:
        result = really(*arguments)
        done.append(result.adapter)
        return result

    monkeypatch.setattr(training_run, "train", count)
    return done


def test_the_first_adapter_of_a_base_goes_live_and_the_same_night_again_trains_nothing(
    settings: Settings, tmp_path: Path, trainings: list[str]
) -> None:
    logs = write_logs(tmp_path / "logs.jsonl")
    said: list[str] = []
    first = train_on_logs(settings, [logs], RECIPE, said.append)
    assert said[-1] == f"adapter {first.adapter} is live"
    release = releases.live(settings.releases)
    assert (release.adapter, release.base, release.prompt) == (first.adapter, settings.base, prompt.ID)
    assert train_on_logs(settings, [logs], RECIPE, said.append).adapter == first.adapter
    assert "was trained on these logs before; nothing to do" in said[-1]
    assert trainings == [first.adapter]


def test_a_second_training_does_not_replace_the_live_adapter(
    settings: Settings, tmp_path: Path, trainings: list[str]
) -> None:
    logs = write_logs(tmp_path / "logs.jsonl")
    first = train_on_logs(settings, [logs], RECIPE, lambda _: None)
    said: list[str] = []
    second = train_on_logs(settings, [logs], RECIPE.model_copy(update={"seed": 8}), said.append)
    assert trainings == [first.adapter, second.adapter] and first.adapter != second.adapter
    assert releases.live(settings.releases).adapter == first.adapter
    told = f"adapter {second.adapter} is kept; {first.adapter} stays live; to serve it: assistant release propose"
    assert said[-1] == f"{told} --adapter {second.adapter}"
    assert (settings.adapters / second.adapter).is_dir()


def test_an_adapter_that_was_deleted_is_trained_again(settings: Settings, tmp_path: Path, trainings: list[str]) -> None:
    import shutil

    logs = write_logs(tmp_path / "logs.jsonl")
    first = train_on_logs(settings, [logs], RECIPE, lambda _: None)
    shutil.rmtree(settings.adapters / first.adapter)
    assert train_on_logs(settings, [logs], RECIPE, lambda _: None).adapter == first.adapter
    assert len(trainings) == 2


def test_other_logs_of_the_same_name_are_another_night(
    settings: Settings, tmp_path: Path, trainings: list[str]
) -> None:
    """Hashes were kept by file name, so of two days' `chat.jsonl` in two folders only the last one counted."""
    logs = [write_logs(tmp_path / day / "chat.jsonl", day) for day in ("monday", "tuesday")]
    train_on_logs(settings, logs, RECIPE, lambda _: None)
    write_logs(logs[0], "other")
    train_on_logs(settings, logs, RECIPE, lambda _: None)
    assert len(trainings) == 2


def test_what_was_set_aside_is_kept_and_told(settings: Settings, tmp_path: Path, trainings: list[str]) -> None:
    logs = write_logs(tmp_path / "logs.jsonl", bad=True)
    said: list[str] = []
    train_on_logs(settings, [logs], RECIPE, said.append)
    (path,) = settings.runs.glob("*/data/set_aside.jsonl")
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert (line["place"], line["text"]) == (f"{logs}:5", "card <CARD_1>")
    assert "       1 conversations: malformed" in said
    assert f"what was set aside, and the topics: {path.parent}" in said


def test_a_run_that_died_after_its_data_were_made_goes_on_with_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = write_logs(tmp_path / "logs.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_on_logs(settings, [logs], RECIPE, lambda _: None)
    monkeypatch.setattr(training_run.dataset, "prepare", lambda *_, **__: pytest.fail("made again"))
    assert train_on_logs(settings, [logs], RECIPE, lambda _: None)


def test_a_case_that_the_logs_hold_ends_the_run(settings: Settings, tmp_path: Path) -> None:
    logs = write_logs(tmp_path / "logs.jsonl")
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"id": "c1", "query": "How long for refund 3?"}) + "\n")
    with pytest.raises(InputError, match=r"cases\.jsonl: c1"):
        train_on_logs(settings, [logs], RECIPE, lambda _: None, cases=[cases])
    assert not settings.adapters.exists()
    others = (("Which card do I need?", "a Visa card"), ("May my wife share the account?", "an account of her own"))
    told = [[("user", asked), ("assistant", f"You need {what} for that.")] for asked, what in others]
    shaped = [[{"role": role, "content": text} for role, text in said] for said in told]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"messages": said}) + "\n" for said in shaped))
    more = [logs, tmp_path / "more.jsonl"]
    assert train_on_logs(settings, more, RECIPE, lambda _: None, cases=[cases], twins_aside=True)


def test_a_case_that_the_adapter_to_continue_has_learned_ends_the_run(settings: Settings, tmp_path: Path) -> None:
    train_on_logs(settings, [write_logs(tmp_path / "logs.jsonl")], RECIPE, lambda _: None)
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"id": "c1", "query": "How long for refund 3?"}) + "\n")
    newer = [write_logs(tmp_path / "newer.jsonl", "transfer")]
    continued = RECIPE.model_copy(update={"continue_from": "live"})
    with pytest.raises(InputError, match=r"logs\.jsonl:4 is .* like cases\.jsonl: c1"):
        train_on_logs(settings, newer, continued, lambda _: None, cases=[cases])
    second = train_on_logs(settings, newer, continued, lambda _: None)
    third = RECIPE.model_copy(update={"continue_from": second.adapter})
    other = [write_logs(tmp_path / "other.jsonl", "withdrawal")]
    with pytest.raises(InputError, match=r"logs\.jsonl:4 is .* like cases\.jsonl: c1"):
        train_on_logs(settings, other, third, lambda _: None, cases=[cases])


def test_an_adapter_that_is_no_better_than_its_base_does_not_go_live(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = write_logs(tmp_path / "logs.jsonl")
    said_of_cards = ("user", "Which card do I need?"), ("assistant", "You need a Visa card for that.")
    messages = [{"role": role, "content": text} for role, text in said_of_cards]
    logs.write_text(logs.read_text() + json.dumps({"messages": messages}) + "\n")
    said: list[str] = []
    losses = itertools.chain([[20.0]], itertools.repeat([25.0]))
    monkeypatch.setattr("finetune.train._Run.validate", lambda run, micro_batch: next(losses))
    result = train_on_logs(settings, [logs], RECIPE.model_copy(update={"validation_share": 0.25}), said.append)
    assert result.held_out == 1 and result.loss_after > result.loss_before
    assert said[-1].startswith(f"adapter {result.adapter} is kept and not live: held-out answers are no likelier")
    assert releases.live(settings.releases).adapter is None


def test_what_vllm_cannot_serve_does_not_go_live_unless_it_is_served_merged(
    settings: Settings, tmp_path: Path, trainings: list[str]
) -> None:
    logs = write_logs(tmp_path / "logs.jsonl")
    recipe = RECIPE.model_copy(update={"peft": {"r": 2, "use_dora": True}})
    said: list[str] = []
    train_on_logs(settings, [logs], recipe, said.append)
    assert "vLLM does not serve DoRA; it can be served only where it is merged into the base: assistant merge" in said
    assert said[-1].endswith(
        "is kept and not live: vLLM does not serve DoRA; it can be served merged: --merged, or ASSISTANT_MERGED=1"
    )
    assert releases.live(settings.releases).adapter is None
    result = train_on_logs(settings.model_copy(update={"merged": True}), [logs], recipe, said.append)
    assert releases.live(settings.releases).adapter == result.adapter


def test_the_live_adapter_can_be_trained_on(settings: Settings, tmp_path: Path, trainings: list[str]) -> None:
    first = train_on_logs(settings, [write_logs(tmp_path / "monday.jsonl")], RECIPE, lambda _: None)
    recipe = RECIPE.model_copy(update={"continue_from": "live"})
    second = train_on_logs(settings, [write_logs(tmp_path / "tuesday.jsonl", "transfer")], recipe, lambda _: None)
    assert trainings == [first.adapter, second.adapter]


def test_a_missing_log_publishes_nothing(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.jsonl does not exist"):
        train_on_logs(settings, [tmp_path / "no.jsonl"], RECIPE, lambda _: None)
    assert releases.live(settings.releases) == releases.EMPTY
    assert not settings.adapters.exists()


@pytest.mark.parametrize("name", ["nosuch", "clearml"])
def test_a_tracker_that_is_unknown_or_not_installed_is_named_before_data_are_made(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    recipe = RECIPE.model_copy(update={"trackers": (name,)})
    with pytest.raises(InputError, match=rf"recipe field 'trackers': '{name}' .* installed are tensorboard"):
        train_on_logs(settings, [write_logs(tmp_path / "logs.jsonl")], recipe, lambda _: None)
    assert not settings.runs.exists()
