"""What serves: a release names one adapter, index and prompt; `releases/live` names one release.

A release is one immutable JSON file named by its content, and going live is one rename. `releases/history` has a line
for each time that one went live.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from retrieval.errors import InputError, NotReady
from retrieval.files import content_id, storage_errors, write_text


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

    @property
    def id(self) -> str:
        return content_id(json.dumps(asdict(self)))


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
        StorageError: The disk refused; the old release is still live.
    """
    release = replace(live(releases), **parts)
    write_text(releases / f"{release.id}.json", json.dumps(asdict(release), indent=1) + "\n")
    _go_live(releases, release.id)
    return release


def promote(releases: Path, name: str) -> Release:
    """Make the release `name` live; an earlier one, or one that was published by another process.

    Raises:
        InputError: There is none of that name, or its file is damaged.
        StorageError: The disk refused; the old release is still live.
    """
    release = read(releases, name)
    _go_live(releases, name)
    return release


def read(releases: Path, name: str) -> Release:
    """The release `name`; raises `InputError` as `promote` does."""
    if not (releases / f"{name}.json").is_file():
        known = ", ".join(dict.fromkeys(entry.release for entry in history(releases))) or "none yet"
        raise InputError(f"there is no release {name!r} in {releases}; known: {known}")
    return _read(releases, name, releases)


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


def _go_live(releases: Path, name: str) -> None:
    """The history first: what was live is never missing in it, even if the machine stops between the two."""
    pointer = releases / "live"
    if pointer.exists() and pointer.read_text(encoding="utf-8").strip() == name:
        return
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
