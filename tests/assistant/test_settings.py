from pathlib import Path

import pytest

from assistant.settings import read_settings
from retrieval.errors import InputError


def test_every_folder_is_below_home(tmp_path: Path) -> None:
    settings = read_settings(home=tmp_path)
    folders = {settings.models, settings.indexes, settings.adapters, settings.releases, settings.runs, settings.logs}
    assert len(folders) == 6 and all(folder.parent == tmp_path for folder in folders)


def test_the_environment_is_read_and_options_stand_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSISTANT_PORT", "9001")
    monkeypatch.setenv("ASSISTANT_HOST", "0.0.0.0")
    settings = read_settings(port=9002, host=None)
    assert (settings.port, settings.host) == (9002, "0.0.0.0")


def test_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_settings(home=Path("~/data")).home == tmp_path / "data"
    assert read_settings(home=Path("data")).home == Path.cwd() / "data"


def test_base_languages_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSISTANT_BASE_LANGUAGES", '["en", "zh"]')
    assert read_settings().base_languages == ("en", "zh")


def test_by_default_one_question_in_twenty_may_be_missed_and_nothing_is_reranked() -> None:
    settings = read_settings()
    assert (settings.false_miss_rate, settings.small_index, settings.reranker) == (0.05, False, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PORT", "70000"), ("PORT", "http"), ("BASE_LANGUAGES", "en"), ("BASE_LANGUAGES", "[en"), ("PASSAGES", "0")),
        *(("FALSE_MISS_RATE", "0"), ("FALSE_MISS_RATE", "0.5"), ("FALSE_MISS_RATE", "5%"), ("SMALL_INDEX", "perhaps")),
        *(("EMBED_ORIGINS", "https://shop.example"), ("RETENTION_DAYS", "999999")),
    ],
)
def test_a_value_that_cannot_be_is_an_input_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ASSISTANT_{name}", value)
    with pytest.raises(InputError, match=f"ASSISTANT_{name}"):
        read_settings()
