from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from finetune.night_metrics import render, write_textfile
from finetune.nights import Night, Step
from retrieval.errors import StorageError

# 1764000000 is 2025-11-24T16:00:00Z.
FIRST = Night("n1", "2025-11-24T16:00:00Z", "promoted", [], champion="r1", metrics={"facts": 0.25, "total": 3.0})
SECOND = Night(
    "n2",
    "2025-11-24T16:01:40Z",
    "failed",
    ["no space left"],
    champion="r2",
    steps=[Step("clean", 2.5, 2.0, 1024), Step("train", 60.0, 170.0, 4096), Step("train", 30.0, 50.0, 9)],
    counts={
        **{"new": 7, "examples: training": 4, "examples: validation": 1, "quarantined": 2, "redacted": 4},
        **{"redacted: CARD": 3, "redacted: PHONE": 1, "turns: part of a suspicious burst": 2, "turns: duplicate": 9},
    },
)


def samples(exposition: bytes) -> dict[str, float]:
    """Values by `name{label=value}` as Prometheus reads them, without the prefix that all share."""
    found = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            labels = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("assistant_nightly_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


def test_the_last_night_and_the_last_good_one_are_told_apart() -> None:
    found = samples(render([FIRST, SECOND]))
    assert found["last_run_timestamp_seconds"] == 1764000100
    assert found["last_success_timestamp_seconds"] == 1764000000


def test_all_that_nights_tell() -> None:
    assert samples(render([FIRST, SECOND])) == {
        "nights_total{word=promoted}": 1,
        "nights_total{word=kept}": 0,
        "nights_total{word=failed}": 1,
        "nights_total{word=waiting}": 0,
        "last_run_timestamp_seconds": 1764000100,
        "last_success_timestamp_seconds": 1764000000,
        "last_word{word=promoted}": 0,
        "last_word{word=kept}": 0,
        "last_word{word=failed}": 1,
        "last_word{word=waiting}": 0,
        "rows{kind=new}": 7,
        "rows{kind=kept}": 5,
        "rows{kind=quarantined}": 2,
        "rows{kind=redacted}": 4,
        "step_seconds{step=clean}": 2.5,
        "step_seconds{step=train}": 90,
        "primary": 0.25,
    }


def test_before_the_first_night_only_the_counters_are_there_and_zero() -> None:
    assert samples(render([])) == {f"nights_total{{word={word}}}": 0 for word in "promoted kept failed waiting".split()}


def test_a_job_that_never_went_well_was_last_well_in_1970() -> None:
    found = samples(render([SECOND]))
    assert found["last_success_timestamp_seconds"] == 0
    assert "primary" not in found


def test_a_night_that_finds_nothing_new_is_a_success_though_it_leaves_no_record() -> None:
    """Without logs of the day an alert on the last success went off after 36 hours, with a job that ran every night."""
    checked = datetime.fromisoformat("2025-11-26T16:00:00Z")
    found = samples(render([FIRST, SECOND], checked))
    assert found["last_success_timestamp_seconds"] == found["last_idle_timestamp_seconds"] == 1764000000 + 2 * 86_400
    assert found["last_run_timestamp_seconds"] == 1764000100
    assert samples(render([], checked))["last_success_timestamp_seconds"] == 1764000000 + 2 * 86_400


def test_a_night_after_the_last_idle_one_is_the_later_success() -> None:
    found = samples(render([FIRST], datetime.fromisoformat("2025-11-24T15:00:00Z")))
    assert found["last_success_timestamp_seconds"] == 1764000000


def test_what_a_night_did_not_come_to_has_no_series() -> None:
    assert not [name for name in samples(render([FIRST])) if name.startswith(("rows", "step_seconds"))]


def test_the_same_nights_give_the_same_bytes_under_our_prefix() -> None:
    assert render([FIRST, SECOND]) == render([FIRST, SECOND])
    families = text_string_to_metric_families(render([FIRST, SECOND]).decode())
    assert all(family.name.startswith("assistant_nightly_") for family in families)


def test_the_text_file_is_replaced_whole_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "assistant.prom"
    write_textfile(path, [FIRST])
    write_textfile(path, [FIRST, SECOND])
    assert path.read_bytes() == render([FIRST, SECOND])
    assert [each.name for each in tmp_path.iterdir()] == ["assistant.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_text_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "assistant.prom"
    write_textfile(path, [FIRST])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_textfile(path, [FIRST, SECOND])
    assert path.read_bytes() == render([FIRST])
    assert [each.name for each in tmp_path.iterdir()] == ["assistant.prom"]
