"""What serves: a release names one adapter, index and prompt; `releases/live` names one release.

A release is one immutable JSON file named by its content, and going live is one rename. `releases/history` has a line
for each time that one went live. Beside a release may lie `<name>.needs-approval`, until which is answered by
`<name>.approved` it cannot go live. Those that were pruned lie in `releases/pruned`, to be read only.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from assistant.redaction import Redactor
from retrieval.errors import InputError, NotReady
from retrieval.files import alone, content_id, storage_errors, write_text

YOUNG = timedelta(days=1)
"""What was live or made within it is never pruned: a service, a training run or a night may be about to use it."""
_RELEASE, _MARK, _SIGNATURE, _STOPPED = ".json", ".needs-approval", ".approved", ".stopped"
_ASIDE = ".pruned."
_PLACEHOLDER = re.compile(r"<[A-Z]+_\d+>")


@dataclass(frozen=True)
class Release:
    index: str | None
    """Id of the index; None before the first."""
    adapter: str | None
    """Name of the adapter; None before the first training."""
    base: str | None
    """The base that the adapter was trained on."""
    prompt: str | None
    """Id of the prompt that the adapter was trained with."""
    report: str | None = None
    """Id of the evaluation that it was judged by; None if there was none."""
    night: str | None = None
    """Id of the night that made it; None if a person did."""

    @property
    def id(self) -> str:
        return content_id(json.dumps(self.fields()))

    def fields(self) -> dict[str, str | None]:
        """As its file holds it. An origin that is None is left out: releases had none once, and keep their ids."""
        return {name: value for name, value in asdict(self).items() if name not in ("report", "night") or value}


EMPTY = Release(index=None, adapter=None, base=None, prompt=None)


def live(releases: Path) -> Release:
    """The live release; an empty one before the first.

    Raises:
        InputError: The pointer or the release is damaged.
    """
    pointer = releases / "live"
    if not pointer.exists():
        return EMPTY
    return _read(releases, pointer.read_text(encoding="utf-8").strip(), pointer)


def _read(releases: Path, name: str, named_by: Path) -> Release:
    path = releases / f"{name}.json"
    try:
        return Release(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{named_by} names the release {name!r}, but {path} cannot be read ({error}); "
            "write the name of another release there"
        ) from error


def publish(releases: Path, **parts: str) -> Release:
    """Make live the live release with `parts` replaced; the old one stays for going back.

    Raises:
        NotReady: The very same was proposed, and waits for an approval.
        StorageError: The disk refused; the old release is still live.
    """
    with _changing(releases):
        release = _written(releases, parts)
        _go_live(releases, release.id)
    return release


def propose(releases: Path, needs_approval: bool = False, **parts: str) -> Release:
    """Write the live release with `parts` replaced, for `promote` to make live; with `needs_approval` after `approve`.

    Raises:
        StorageError: The disk refused; nothing that serves has changed.
    """
    with _changing(releases):
        return _written(releases, parts, needs_approval)


def _written(releases: Path, parts: dict[str, str], needs_approval: bool = False) -> Release:
    now = live(releases)
    release = replace(now, **parts)
    if release != now:  # other parts were judged by another evaluation, or by none
        release = replace(release, report=parts.get("report"), night=parts.get("night"))
    if needs_approval:  # first: without it the release could go live
        write_text(releases / f"{release.id}{_MARK}", "")
    write_text(releases / f"{release.id}{_RELEASE}", json.dumps(release.fields(), indent=1) + "\n")
    return release


def promote(releases: Path, name: str) -> Release:
    """Make the release `name` live; an earlier one, a proposed one, or one that was published by another process.

    Raises:
        InputError: There is none of that name, it was pruned, or its file is damaged.
        NotReady: It waits for an approval.
        StorageError: The disk refused; the old release is still live.
    """
    with _changing(releases):
        release = _kept(releases, name)
        _go_live(releases, name)
    return release


def read(releases: Path, name: str) -> Release:
    """The release `name`, even a pruned one.

    Raises:
        InputError: There is none of that name, or its file is damaged.
    """
    path = _file(releases, name, _RELEASE)
    if not path.is_file():
        known = ", ".join(_names(releases)) or "none yet"
        raise InputError(f"there is no release {name!r} in {releases}; known: {known}")
    return _read(path.parent, name, releases)


def _kept(releases: Path, name: str) -> Release:
    """The release `name`, which was not pruned."""
    release = read(releases, name)
    if is_pruned(releases, name):
        raise InputError(
            f"the release {name} was pruned, and its index or adapter with it; "
            f"those that can be promoted: {', '.join(_names(releases)) or 'none'}"
        )
    return release


def _file(releases: Path, name: str, kind: str) -> Path:
    path = releases / f"{name}{kind}"
    return path if path.exists() else releases / "pruned" / path.name


def _names(releases: Path) -> list[str]:
    """The releases that were not pruned, oldest first."""
    return [path.name.removesuffix(_RELEASE) for path in _by_age(releases.glob(f"*{_RELEASE}"))]


def _by_age(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))


def proposed(releases: Path) -> list[str]:
    """The releases that never went live, oldest first."""
    served = {entry.release for entry in history(releases)}
    return [name for name in _names(releases) if name not in served]


def proposed_at(releases: Path, name: str) -> datetime:
    """When the release was written, UTC."""
    return datetime.fromtimestamp(_file(releases, name, _RELEASE).stat().st_mtime, UTC)


def is_pruned(releases: Path, name: str) -> bool:
    """Whether the release is only kept to be read."""
    return not (releases / f"{name}{_RELEASE}").is_file()


def diff(one: Release, other: Release) -> dict[str, tuple[str | None, str | None]]:
    """What the releases do not have in common: by part, what `one` has and what `other` has."""
    before, after = asdict(one), asdict(other)
    return {part: (before[part], after[part]) for part in before if before[part] != after[part]}


@dataclass(frozen=True)
class Approval:
    by: str
    """Who signed; without card numbers, phone numbers and addresses."""
    at: str
    """When, RFC 3339, UTC."""


def approve(releases: Path, name: str, by: str) -> Approval:
    """Sign the release `name`, so that it may go live; the first signature stays.

    Raises:
        InputError: There is no such release, it was pruned, or `by` names nobody.
        StorageError: The disk refused; it is not approved.
    """
    who = " ".join(Redactor(names=False)(by).split())
    if not _PLACEHOLDER.sub("", who).strip():
        raise InputError("whoever approves needs a name, which no card number or address is; give it as --by NAME")
    with _changing(releases):
        _kept(releases, name)
        if signed := approved(releases, name):
            return signed
        approval = Approval(who, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        write_text(releases / f"{name}{_SIGNATURE}", json.dumps(asdict(approval), ensure_ascii=False) + "\n")
    return approval


def approved(releases: Path, name: str) -> Approval | None:
    """Who signed the release `name`; None if nobody did.

    Raises:
        InputError: The file is damaged.
    """
    path = _file(releases, name, _SIGNATURE)
    if not path.exists():
        return None
    try:
        return Approval(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no approval ({error}); remove it, and approve the release again") from error


def waits(releases: Path, name: str) -> bool:
    """Whether the release may not go live before it is approved."""
    return _file(releases, name, _MARK).exists() and approved(releases, name) is None


def rollback(releases: Path) -> Release:
    """Make the release live that was so before the present one; doing it again goes back to the present one.

    Raises:
        InputError: No other release was ever live.
    """
    now = live(releases).id
    before = [entry.release for entry in history(releases) if entry.release != now]
    if not before:
        raise InputError(f"no release was live before {now}; there is nothing to go back to")
    return promote(releases, before[-1])


@dataclass(frozen=True)
class Entry:
    at: datetime
    """When it went live, UTC."""
    release: str


def history(releases: Path) -> list[Entry]:
    """What was live, oldest first.

    Raises:
        InputError: The file is damaged.
    """
    path = releases / "history"
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            at, name = line.split()
            entries.append(Entry(datetime.fromisoformat(at), name))
        except ValueError:
            raise InputError(f"{path}:{number} is not a time and a release but {line!r}; remove the line") from None
    return entries


def _changing(releases: Path) -> AbstractContextManager[None]:
    """One process at a time writes releases and makes them live.

    Not by the lock of `releases` itself: whoever looks before going back holds that one.
    """
    return alone(releases / "pruned")


def _go_live(releases: Path, name: str) -> None:
    """The history first: what was live is never missing in it, even if the machine stops between the two."""
    if waits(releases, name):
        raise NotReady(f"the release {name} waits for a signature; run: assistant release approve {name} --by NAME")
    pointer = releases / "live"
    if pointer.exists() and pointer.read_text(encoding="utf-8").strip() == name:
        return
    changes = history(releases)
    if not changes or changes[-1].release != name:  # a crash may have come between the two
        with storage_errors(releases / "history"), (releases / "history").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {name}\n")
            file.flush()
            os.fsync(file.fileno())
    write_text(pointer, name + "\n")


def require(release: Release, base: str) -> tuple[str, str]:
    """The index and the adapter of `release`, checked to serve on `base`.

    Raises:
        NotReady: It lacks an index or an adapter, or the adapter belongs to another base.
    """
    if release.index is None:
        raise NotReady("there is no index yet; run: assistant index --knowledge DIR")
    if release.adapter is None:
        raise NotReady("there is no adapter yet; run: assistant train --logs FILE")
    if release.base != base:
        raise NotReady(
            f"the live adapter {release.adapter} was trained on {release.base}, not on {base}; "
            f"run: assistant train --base {base} --logs FILE, or serve with --base {release.base}"
        )
    return release.index, release.adapter


@dataclass(frozen=True)
class Pruned:
    """Names of what is gone; with `dry_run`, of what would go."""

    releases: list[str]
    indexes: list[str]
    adapters: list[str]
    models: list[str]
    """Adapters merged into their base."""
    freed_bytes: int


def prune(
    releases: Path,
    indexes: Path,
    adapters: Path,
    models: Path,
    keep: int,
    in_use: Collection[str] = (),
    dry_run: bool = False,
    now: datetime | None = None,
) -> Pruned:
    """Take away the releases that were not live in the last `keep` changes, and delete what only they named.

    Kept besides: what `rollback` goes to, the newest `keep` proposals, indexes and adapters, proposals that are
    approved, what is `YOUNG`, and the indexes and adapters `in_use`. A merged model goes with its adapter.

    Raises:
        InputError: `keep` is under 1, or a file that says what serves is damaged; nothing was pruned.
        StorageError: The disk refused; what is left goes next time.
    """
    if keep < 1:
        raise InputError(f"{keep} changes cannot be kept; keep at least 1")
    young = (now or datetime.now(UTC)) - YOUNG
    if dry_run:
        gone, folders = _prunable(releases, indexes, adapters, models, keep, in_use, young)
        return _told(gone, folders)
    left = [path for place in (indexes, adapters, models) for path in place.glob(f"{_ASIDE}*") if _made(path) < young]
    with _changing(releases):  # nothing goes live meanwhile; deleting takes longer, and nobody waits for it
        gone, folders = _prunable(releases, indexes, adapters, models, keep, in_use, young)
        pruned = _told(gone, folders)
        with storage_errors(releases):
            for name in gone:
                for path in (releases / f"{name}{kind}" for kind in (_STOPPED, _SIGNATURE, _MARK, _RELEASE)):
                    if path.exists():
                        path.replace(releases / "pruned" / path.name)
            for folder in folders[2] + folders[1] + folders[0]:
                left.append(Path(tempfile.mkdtemp(dir=folder.parent, prefix=_ASIDE)))
                folder.rename(left[-1] / folder.name)
    for aside in left:  # with what a prune left that was killed here
        with storage_errors(aside):
            shutil.rmtree(aside)
    return pruned


_Folders = tuple[list[Path], list[Path], list[Path]]
"""Indexes, adapters, merged models."""


def _prunable(
    releases: Path,
    indexes: Path,
    adapters: Path,
    models: Path,
    keep: int,
    in_use: Collection[str],
    young: datetime,
) -> tuple[list[str], _Folders]:
    kept = _needed(releases, keep, young)
    there = _names(releases)
    parts = [read(releases, name) for name in there if name in kept]
    merged = {path.name.removesuffix("-merged") for path in models.glob("*-merged") if _made(path) >= young}
    unnamed = _unnamed(indexes, "manifest.json", {*in_use, *(str(part.index) for part in parts)}, keep, young)
    unserved = _unnamed(
        adapters, "training.json", {*in_use, *merged, *(str(part.adapter) for part in parts)}, keep, young
    )
    with_them = [path for adapter in unserved if (path := models / f"{adapter.name}-merged").is_dir()]
    return [name for name in there if name not in kept], (unnamed, unserved, with_them)


def _needed(releases: Path, keep: int, young: datetime) -> set[str]:
    """The releases that must stay."""
    needed = {live(releases).id}
    if (pointer := releases / "live").exists():
        needed.add(pointer.read_text(encoding="utf-8").strip())
    changes, waiting = history(releases), proposed(releases)
    before = [entry.release for entry in changes if entry.release not in needed]
    replaced = [entry.at for entry in changes[1:]]
    recent = [entry.release for entry, end in zip(changes, replaced, strict=False) if end >= young]
    fresh = [name for name in waiting if proposed_at(releases, name) >= young or approved(releases, name)]
    last = [entry.release for entry in changes[-keep:]]
    return needed.union(before[-1:], recent, last, waiting[-keep:], fresh)


def _unnamed(place: Path, marker: str, named: Collection[str], keep: int, young: datetime) -> list[Path]:
    """Folders with the file `marker` that are neither named, nor among the newest `keep`, nor young."""
    whole = [path.parent for path in place.glob(f"*/{marker}") if not path.parent.name.startswith(".")]
    return [path for path in _by_age(whole)[:-keep] if path.name not in named and _made(path) < young]


def _made(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _told(gone: Sequence[str], folders: _Folders) -> Pruned:
    files = [path for some in folders for folder in some for path in folder.rglob("*") if path.is_file()]
    built, trained, merged = ([folder.name for folder in some] for some in folders)
    return Pruned(list(gone), built, trained, merged, sum(path.stat().st_size for path in files))
