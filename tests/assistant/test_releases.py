import json
import os
import random
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistant.releases import (
    EMPTY,
    YOUNG,
    Pruned,
    Release,
    approve,
    approved,
    diff,
    history,
    live,
    promote,
    propose,
    proposed,
    prune,
    publish,
    read,
    require,
    rollback,
    waits,
)
from retrieval.errors import InputError, NotReady, StorageError
from retrieval.files import alone

LATER = datetime.now(UTC) + 2 * YOUNG
"""When nothing that a test makes is young any more."""
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
    files = ["pruned", "history", "live", f"{replace(EMPTY, index='i1').id}.json"]
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


def renames(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are renamed from now on, by their new names."""
    replaced, rename = [], os.replace

    def recorded(old: str, new: Path) -> None:
        replaced.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "replace", recorded)
    return replaced


def parts(home: Path, *releases: Release) -> None:
    """Write the indexes and adapters of the releases, and merge the adapters."""
    for release in releases:
        for place, name, marker in (
            ("indexes", release.index, "manifest.json"),
            ("adapters", release.adapter, "training.json"),
            ("models", f"{release.adapter}-merged", "config.json"),
        ):
            (home / place / str(name)).mkdir(parents=True, exist_ok=True)
            (home / place / str(name) / marker).write_text("{}")


def pruned(home: Path, keep: int, *in_use: str, dry_run: bool = False, now: datetime = LATER) -> Pruned:
    releases, indexes, adapters, models = (home / name for name in ("releases", "indexes", "adapters", "models"))
    return prune(releases, indexes, adapters, models, keep, in_use, dry_run, now)


def folders(home: Path, place: str) -> list[str]:
    return sorted(path.name for path in (home / place).iterdir())


def three_releases(home: Path) -> list[Release]:
    """Live one after the other, each with its own index and adapter; the third serves."""
    made = []
    for n in "123":
        made.append(publish(home / "releases", index=f"i{n}", adapter=f"a{n}", base="b", prompt="p"))
        parts(home, made[-1])
    return made


def test_a_file_of_before_there_were_nights_is_read_and_keeps_its_id(tmp_path: Path) -> None:
    old = '{"index": "i1", "adapter": "a1", "base": "smollm2-135m", "prompt": "p1"}'
    (tmp_path / "b34b4a3818d6.json").write_text(old)
    (tmp_path / "live").write_text("b34b4a3818d6\n")
    assert live(tmp_path) == WHOLE
    assert live(tmp_path).id == "b34b4a3818d6"
    assert publish(tmp_path, index="i1").id == "b34b4a3818d6"
    assert json.loads((tmp_path / "b34b4a3818d6.json").read_text()) == json.loads(old)


def test_a_release_tells_its_night_and_the_next_one_by_hand_has_none(tmp_path: Path) -> None:
    by_night = publish(tmp_path, index="i1", report="night-7", night="7")
    assert (read(tmp_path, by_night.id).night, read(tmp_path, by_night.id).report) == ("7", "night-7")
    assert publish(tmp_path, index="i1") == by_night
    assert publish(tmp_path, index="i2") == Release("i2", None, None, None)


def test_what_is_proposed_serves_only_when_it_is_promoted(tmp_path: Path) -> None:
    first = publish(tmp_path, index="i1")
    second = propose(tmp_path, index="i2", night="7")
    assert (live(tmp_path), proposed(tmp_path)) == (first, [second.id])
    promote(tmp_path, second.id)
    assert (live(tmp_path), proposed(tmp_path)) == (second, [])
    assert [entry.release for entry in history(tmp_path)] == [first.id, second.id]


def test_the_difference_of_two_releases_is_what_they_do_not_share() -> None:
    assert diff(WHOLE, replace(WHOLE, index="i2", night="7")) == {"index": ("i1", "i2"), "night": (None, "7")}
    assert diff(WHOLE, WHOLE) == {}


def test_what_needs_a_signature_is_not_promoted_without_one(tmp_path: Path) -> None:
    first = publish(tmp_path, index="i1")
    second = propose(tmp_path, needs_approval=True, index="i2")
    with pytest.raises(NotReady, match=f"run: assistant release approve {second.id} --by"):
        promote(tmp_path, second.id)
    with pytest.raises(NotReady, match="waits for a signature"):
        publish(tmp_path, index="i2")
    assert (live(tmp_path), len(history(tmp_path)), waits(tmp_path, second.id)) == (first, 1, True)
    approve(tmp_path, second.id, "Mia Chen")
    assert promote(tmp_path, second.id) == live(tmp_path) == second
    assert (rollback(tmp_path), rollback(tmp_path)) == (first, second)


def test_the_mark_is_there_before_the_release_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night that was killed between the two would leave a release that anybody can promote."""
    replaced = renames(monkeypatch)
    propose(tmp_path, needs_approval=True, index="i1")
    assert [path.suffix for path in replaced] == [".needs-approval", ".json"]


def test_the_first_signature_stays(tmp_path: Path) -> None:
    release = propose(tmp_path, needs_approval=True, index="i1")
    assert approved(tmp_path, release.id) is None
    first = approve(tmp_path, release.id, "Mia Chen")
    assert approve(tmp_path, release.id, "Li Wei") == approved(tmp_path, release.id) == first
    assert first.by == "Mia Chen"


@pytest.mark.parametrize("by", ["", "  ", "4111 1111 1111 1111", "mia@example.com"])
def test_nobody_signs_without_a_name(tmp_path: Path, by: str) -> None:
    release = propose(tmp_path, needs_approval=True, index="i1")
    with pytest.raises(InputError, match="needs a name") as raised:
        approve(tmp_path, release.id, by)
    assert "4111" not in str(raised.value)
    assert waits(tmp_path, release.id)


def test_a_card_number_beside_the_name_reaches_no_file(tmp_path: Path) -> None:
    release = propose(tmp_path, index="i1")
    assert approve(tmp_path, release.id, "Mia 4111 1111 1111 1111").by == "Mia <CARD_1>"
    assert "4111" not in (tmp_path / f"{release.id}.approved").read_text()


def test_a_damaged_signature_is_none(tmp_path: Path) -> None:
    release = propose(tmp_path, needs_approval=True, index="i1")
    (tmp_path / f"{release.id}.approved").write_text("yes")
    with pytest.raises(InputError, match=r"approved is no approval.*approve the release again"):
        promote(tmp_path, release.id)
    with pytest.raises(InputError, match="there is no release 'r9'"):
        approve(tmp_path, "r9", "Mia")


def test_going_back_is_one_line_and_one_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish(tmp_path, index="i1")
    second = publish(tmp_path, index="i2")
    replaced = renames(monkeypatch)
    rollback(tmp_path)
    assert replaced == [tmp_path / "live"]
    assert [entry.release for entry in history(tmp_path)] == [first.id, second.id, first.id]


def test_whoever_holds_the_folder_to_look_at_it_can_go_back(tmp_path: Path) -> None:
    """The operations page does, so that nothing goes live between what a person saw and the rollback."""
    first = publish(tmp_path, index="i1")
    publish(tmp_path, index="i2")
    with alone(tmp_path):
        going_back = threading.Thread(target=rollback, args=(tmp_path,), daemon=True)
        going_back.start()
        going_back.join(timeout=10)
        assert not going_back.is_alive()
    assert live(tmp_path) == first


def test_releases_that_go_live_at_the_same_time_lose_no_part(tmp_path: Path) -> None:
    """An index and an adapter that were published together each took the other's old part along."""
    threads = [
        threading.Thread(target=publish, args=(tmp_path,), kwargs=kind)
        for kind in ({"index": "i1"}, {"adapter": "a1"}, {"base": "b"}, {"prompt": "p"})
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert live(tmp_path) == Release("i1", "a1", "b", "p")


def test_pruning_leaves_the_last_changes_and_deletes_what_only_others_named(tmp_path: Path) -> None:
    first, second, third = three_releases(tmp_path)
    gone = pruned(tmp_path, 2)
    assert gone == Pruned([first.id], ["i1"], ["a1"], ["a1-merged"], 6)
    assert folders(tmp_path, "indexes") == ["i2", "i3"]
    assert folders(tmp_path, "adapters") == ["a2", "a3"]
    assert folders(tmp_path, "models") == ["a2-merged", "a3-merged"]
    assert (live(tmp_path / "releases"), rollback(tmp_path / "releases")) == (third, second)


def test_a_pruned_release_can_be_read_and_not_promoted(tmp_path: Path) -> None:
    first, second, third = three_releases(tmp_path)
    pruned(tmp_path, 1)
    assert read(tmp_path / "releases", first.id) == first
    assert [entry.release for entry in history(tmp_path / "releases")] == [first.id, second.id, third.id]
    with pytest.raises(InputError, match=f"{first.id} was pruned.*can be promoted: {second.id}, {third.id}"):
        promote(tmp_path / "releases", first.id)


def test_a_dry_run_says_what_would_go_and_changes_nothing(tmp_path: Path) -> None:
    three_releases(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    would_go = pruned(tmp_path, 1, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert would_go == pruned(tmp_path, 1)
    assert pruned(tmp_path, 1) == Pruned([], [], [], [], 0)


def test_what_is_young_or_in_use_stays(tmp_path: Path) -> None:
    three_releases(tmp_path)
    assert pruned(tmp_path, 1, now=datetime.now(UTC)) == Pruned([], [], [], [], 0)
    assert pruned(tmp_path, 1, "i1", "a1").indexes == []
    assert folders(tmp_path, "models") == ["a1-merged", "a2-merged", "a3-merged"]


def test_the_newest_that_no_release_names_stay_and_so_does_what_is_young(tmp_path: Path) -> None:
    publish(tmp_path / "releases", index="i0", adapter="a0", base="b", prompt="p")
    parts(tmp_path, *(replace(WHOLE, index=f"i{n}", adapter=f"a{n}") for n in range(5)))
    for n in range(5):
        at = (LATER - timedelta(days=9 - n)).timestamp()
        os.utime(tmp_path / "indexes" / f"i{n}", (at, at))
        os.utime(tmp_path / "adapters" / f"a{n}", (at, at))
    for name in ("i1", "i2"):
        os.utime(tmp_path / "indexes" / name, (LATER.timestamp(), LATER.timestamp()))
    gone = pruned(tmp_path, 1)
    assert (gone.indexes, gone.adapters) == (["i3", "i4"], ["a1", "a2", "a3"])


def test_an_adapter_that_was_merged_today_stays(tmp_path: Path) -> None:
    three_releases(tmp_path)
    today = LATER.timestamp()
    os.utime(tmp_path / "models" / "a1-merged", (today, today))
    assert pruned(tmp_path, 2).indexes == ["i1"]
    assert folders(tmp_path, "adapters") == ["a1", "a2", "a3"]
    assert folders(tmp_path, "models") == ["a1-merged", "a2-merged", "a3-merged"]


def test_only_what_the_assistant_made_is_pruned(tmp_path: Path) -> None:
    three_releases(tmp_path)
    for name in ("models/company-merged", "indexes/.i9.tmp", "indexes/notes", "adapters/notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "indexes" / "vectors.sqlite").write_text("")
    pruned(tmp_path, 1)
    assert folders(tmp_path, "indexes") == [".i9.tmp", "i2", "i3", "notes", "vectors.sqlite"]
    assert folders(tmp_path, "models") == ["a2-merged", "a3-merged", "company-merged"]
    assert folders(tmp_path, "adapters") == ["a2", "a3", "notes"]


def test_a_proposal_stays_while_it_is_among_the_newest_or_signed(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    publish(releases, index="i0")
    signed, old, new = (propose(releases, needs_approval=True, index=f"i{n}") for n in "123")
    approve(releases, signed.id, "Mia")
    assert pruned(tmp_path, 1).releases == [old.id]
    assert proposed(releases) == [signed.id, new.id]
    assert promote(releases, signed.id) == signed


def test_a_prune_that_was_killed_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = three_releases(tmp_path)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        pruned(tmp_path, 2)
    assert not (tmp_path / "indexes" / "i1").exists()
    with pytest.raises(InputError, match="was pruned"):
        promote(tmp_path / "releases", first.id)
    pruned(tmp_path, 2)
    assert folders(tmp_path, "indexes") == ["i2", "i3"]


def test_nothing_is_pruned_where_it_is_not_known_what_serves(tmp_path: Path) -> None:
    *_, third = three_releases(tmp_path)
    (tmp_path / "releases" / f"{third.id}.json").write_text("no json")
    with pytest.raises(InputError, match="cannot be read"):
        pruned(tmp_path, 1)
    with pytest.raises(InputError, match="0 changes cannot be kept"):
        pruned(tmp_path, 0)
    assert folders(tmp_path, "indexes") == ["i1", "i2", "i3"]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happened_before_what_serves_or_is_referenced_is_never_pruned(tmp_path: Path, seed: int) -> None:
    chance, releases = random.Random(seed), tmp_path / "releases"
    now = datetime.now(UTC).replace(microsecond=0)
    made = [publish(releases, index="i0", adapter="a0", base="b", prompt="p")]
    for _ in range(chance.randint(1, 25)):
        new = {"index": f"i{chance.randint(0, 9)}", "adapter": f"a{chance.randint(0, 9)}"}
        match chance.choice(["publish", "propose", "promote", "rollback", "approve"]):
            case "publish":
                made.append(publish(releases, **new))
            case "propose":
                made.append(propose(releases, needs_approval=True, night=str(len(made)), **new))
            case "promote":
                waiting = chance.choice(made)
                approve(releases, waiting.id, "Mia")
                promote(releases, waiting.id)
            case "rollback" if len({entry.release for entry in history(releases)}) > 1:
                rollback(releases)
            case _:
                approve(releases, chance.choice(made).id, "Mia")
    parts(tmp_path, *made)
    # All of it happened within the last ten days.
    hours = sorted((chance.uniform(0, 240) for _ in history(releases)), reverse=True)
    changes = [(now - timedelta(hours=h), entry.release) for h, entry in zip(hours, history(releases), strict=True)]
    (releases / "history").write_text("".join(f"{at:%Y-%m-%dT%H:%M:%SZ} {name}\n" for at, name in changes))
    for path in [*releases.glob("*.json"), *tmp_path.glob("[iam]*/*")]:  # of releases, indexes, adapters, models
        at = (now - timedelta(hours=chance.uniform(0, 240))).timestamp()
        os.utime(path, (at, at))
    keep, in_use = chance.randint(1, 4), [f"i{chance.randint(0, 9)}", f"a{chance.randint(0, 9)}"]
    served = live(releases)
    ends = [*(at for at, _ in changes[1:]), now]
    must_stay = {name for _, name in changes[-keep:]}
    must_stay |= {name for (_, name), end in zip(changes, ends, strict=True) if end > now - YOUNG}
    must_stay |= {name for name in proposed(releases) if approved(releases, name)}
    there = {place: set(folders(tmp_path, place)) for place in ("indexes", "adapters", "models")}

    gone = pruned(tmp_path, keep, *in_use, now=now)

    assert live(releases) == served
    for release in [served, *(read(releases, name) for name in must_stay)]:
        assert release.id not in gone.releases
        assert (tmp_path / "indexes" / str(release.index) / "manifest.json").exists()
        assert (tmp_path / "adapters" / str(release.adapter) / "training.json").exists()
        assert (tmp_path / "models" / f"{release.adapter}-merged" / "config.json").exists()
    assert not set(in_use) & {*gone.indexes, *gone.adapters}
    assert {*gone.indexes} == there["indexes"] - set(folders(tmp_path, "indexes"))
    assert {*gone.adapters} == there["adapters"] - set(folders(tmp_path, "adapters"))
    assert {*gone.models} == there["models"] - set(folders(tmp_path, "models"))
    for name in proposed(releases):
        assert (tmp_path / "indexes" / str(read(releases, name).index)).exists()
    if len({name for _, name in changes}) > 1:
        back = rollback(releases)
        assert (tmp_path / "indexes" / str(back.index)).exists()
        assert (tmp_path / "adapters" / str(back.adapter)).exists()
