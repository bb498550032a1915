import os
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.releases import EMPTY, Release, history, live, promote, publish, require, rollback
from retrieval.errors import InputError, NotReady, StorageError

WHOLE = Release(index="i1", adapter="a1", base="smollm2-135m", prompt="p1")


def test_before_the_first_release_an_empty_one_is_live(tmp_path: Path) -> None:
    assert live(tmp_path / "releases") == EMPTY


def test_publishing_replaces_the_given_parts_of_the_live_release(tmp_path: Path) -> None:
    publish(tmp_path, index="i1")
    publish(tmp_path, adapter="a1", base="b", prompt="p1")
    assert publish(tmp_path, index="i2") == live(tmp_path) == Release("i2", "a1", "b", "p1")


def test_the_old_release_stays_and_going_back_is_writing_its_name(tmp_path: Path) -> None:
    old = publish(tmp_path, index="i1")
    publish(tmp_path, index="i2")
    (tmp_path / "live").write_text(old.id + "\n")
    assert live(tmp_path) == old


def test_publishing_the_same_again_adds_no_file(tmp_path: Path) -> None:
    publish(tmp_path, index="i1")
    publish(tmp_path, index="i1")
    files = ["history", "live", f"{replace(EMPTY, index='i1').id}.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    assert len(history(tmp_path)) == 1


def test_a_full_disk_leaves_the_old_release_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = publish(tmp_path, index="i1")

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError):
        publish(tmp_path, index="i2")
    assert live(tmp_path) == old


@pytest.mark.parametrize("text", [None, "no json", "{}", '{"index": "i1", "surprise": 1}'])
def test_a_damaged_release_is_an_input_error_that_names_pointer_and_file(tmp_path: Path, text: str | None) -> None:
    release = publish(tmp_path, index="i1")
    path = tmp_path / f"{release.id}.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=f"{tmp_path / 'live'} names the release '{release.id}', but {path}"):
        live(tmp_path)


def test_a_release_serves_on_the_base_that_its_adapter_was_trained_on() -> None:
    assert require(WHOLE, "smollm2-135m") == ("i1", "a1")
    for release, base, message in [
        (EMPTY, "smollm2-135m", "run: assistant index"),
        (replace(WHOLE, adapter=None), "smollm2-135m", "run: assistant train"),
        (WHOLE, "other", "trained on smollm2-135m, not on other"),
    ]:
        with pytest.raises(NotReady, match=message):
            require(release, base)


def test_going_back_twice_comes_back(tmp_path: Path) -> None:
    first = publish(tmp_path, index="i1")
    second = publish(tmp_path, index="i2")
    assert rollback(tmp_path) == live(tmp_path) == first
    assert rollback(tmp_path) == live(tmp_path) == second
    assert [entry.release for entry in history(tmp_path)] == [first.id, second.id, first.id, second.id]


def test_without_an_earlier_release_there_is_no_going_back(tmp_path: Path) -> None:
    publish(tmp_path, index="i1")
    with pytest.raises(InputError, match="there is nothing to go back to"):
        rollback(tmp_path)


def test_any_release_can_be_made_live_by_its_name(tmp_path: Path) -> None:
    first = publish(tmp_path, index="i1")
    publish(tmp_path, index="i2")
    publish(tmp_path, index="i3")
    assert promote(tmp_path, first.id) == live(tmp_path) == first
    with pytest.raises(InputError, match=r"no release 'i9'.*known: "):
        promote(tmp_path, "i9")


def test_a_damaged_line_of_the_history_is_named(tmp_path: Path) -> None:
    publish(tmp_path, index="i1")
    with (tmp_path / "history").open("a") as file:
        file.write("yesterday\n")
    with pytest.raises(InputError, match=r"history:2 is not a time and a release but 'yesterday'"):
        history(tmp_path)
