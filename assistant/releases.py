"""What serves: a release names one adapter, index and prompt; `releases/live` names one release.

A release is one immutable JSON file named by its content, and going live is one rename.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from retrieval.errors import InputError, NotReady
from retrieval.files import content_id, write_text


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
    name = pointer.read_text(encoding="utf-8").strip()
    path = releases / f"{name}.json"
    try:
        return Release(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{pointer} names the release {name!r}, but {path} cannot be read ({error}); "
            "write the name of another release there"
        ) from error


def publish(releases: Path, **parts: str) -> Release:
    """Make live the live release with `parts` replaced; the old one stays for going back.

    Raises:
        StorageError: The disk refused; the old release is still live.
    """
    release = replace(live(releases), **parts)
    write_text(releases / f"{release.id}.json", json.dumps(asdict(release), indent=1) + "\n")
    write_text(releases / "live", release.id + "\n")
    return release


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
