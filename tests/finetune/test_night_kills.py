"""Processes that are really killed, at every rename of what they write; whole nights: benchmarks/night_kills.py."""

import json
import multiprocessing
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from assistant import releases
from assistant.settings import Settings, read_settings
from benchmarks import night_kills
from eval import report
from eval.ab import scored
from eval.cases import Case
from eval.summary import summary
from finetune import nightly, nights
from retrieval.files import new_folder, write_text


def killed(act: Callable[[], object], rename: int, side: str) -> bool:
    """Whether a process that did `act` was killed before or after that rename; False if it made fewer."""

    def target() -> None:
        night_kills.watch_renames((rename, side), None)
        act()

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(30)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def won(settings: Settings, night: nights.Night) -> None:
    """The end of a night."""
    nights.write(settings.home / "nights", night)
    releases.promote(settings.releases, str(night.challenger))


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_promotion_that_was_killed_at_any_rename_is_carried_out_by_the_next_night(tmp_path: Path, side: str) -> None:
    """The history was written, the pointer not yet: the challenger was taken for one that had served, and never did."""
    for rename in range(1, 10):
        settings = read_settings(home=tmp_path / str(rename))
        champion = releases.publish(settings.releases, index="i1", adapter="a1", base="b", prompt="p")
        challenger = releases.propose(settings.releases, adapter="a2")
        night = nights.Night("n1", "2026-11-24T01:00:00+00:00", "promoted", [], champion.id, challenger.id)
        if not killed(partial(won, settings, night), rename, side):
            break
        assert releases.live(settings.releases) in (champion, challenger)
        nightly._promote_last(settings)
        wanted = challenger if nights.read_all(settings.home / "nights") else champion
        assert releases.live(settings.releases) == wanted
        assert [entry.release for entry in releases.history(settings.releases)].count(wanted.id) == 1
    assert rename == 3, "the night's file, and the pointer"


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_folder_whose_writer_was_killed_is_there_whole_or_not_at_all(tmp_path: Path, side: str) -> None:
    def act() -> None:
        with new_folder(tmp_path / "adapter") as folder:
            (folder / "weights").write_text("all of them")

    assert killed(act, 1, side)
    assert (tmp_path / "adapter").exists() == (side == "after")
    if side == "before":
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".adapter.")


def test_what_is_half_is_found_and_named(tmp_path: Path) -> None:
    champion = releases.publish(tmp_path / "releases", index="i1")
    allowed = frozenset((champion.id,))
    assert night_kills.half(tmp_path, allowed) == []
    assert night_kills.half(tmp_path, frozenset()) == [f"releases/live is {champion.id}"]
    write_text(tmp_path / "releases" / "0123456789ab.json", json.dumps(champion.fields()))
    write_text(tmp_path / "nights" / "n1" / "train.json", '{"adapter": ')
    write_text(tmp_path / "adapters" / "base-0123456789ab" / "training.json", '{"base_fingerprint": "", "prompt": ""}')
    write_text(tmp_path / "adapters" / ".base-0123456789ab.tmp" / "training.json", "")
    found = night_kills.half(tmp_path, allowed)
    assert [Path(path.split(":")[0]).name for path in found] == ["0123456789ab.json", "train.json", "base-0123456789ab"]


def test_kills_at_random_moments_are_drawn_from_the_night_and_every_fourth_comes_again() -> None:
    kills = night_kills.at_random(8, cpu_s=10, chance=random.Random(7))
    assert [len(kill.at_cpu_s) for kill in kills] == [1, 1, 1, 2, 1, 1, 1, 2]
    assert all(0 <= at_cpu_s <= 10 for kill in kills for at_cpu_s in kill.at_cpu_s)
    assert kills == night_kills.at_random(8, cpu_s=10, chance=random.Random(7))


def test_what_is_left_behind_is_temporary_by_its_name_or_shown() -> None:
    left = night_kills.left(
        ["adapters/.a1.tmp/weights", "nights/n1/.night.json.x", "runs/r1/tensorboard/e", "runs/r1/x"]
    )
    assert sorted(left) == ["adapters/…, temporary", "nights/…, temporary", "runs/r1/x, NOT temporary"]


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_report_that_programs_can_read_is_there_for_people_too(tmp_path: Path, side: str) -> None:
    """A night that goes on takes `report.json` for the whole evaluation: what came after it was never written."""
    cases = [Case(id=f"c{number}", query="How long?", facts=("5 days",)) for number in range(2)]
    results = summary("night-n1", "2026-11-24T01:00:00+00:00", cases, {name: scored(cases, {}) for name in "ab"}, {})
    for rename in (1, 2, 3):
        folder = tmp_path / str(rename)
        assert killed(partial(report.write, results, folder), rename, side)
        whole = {path.name for path in folder.glob("[!.]*")}
        assert "report.json" not in whole or whole == {"report.html", "report.json", "report.md"}
