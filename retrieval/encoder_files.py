"""An encoder's files: where they are, what identifies them, and where the files made from them go."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrieval import embedded_encoder
from retrieval.files import content_id, sha256

_HUB = "hub:"
_PLAIN = {".json", ".model", ".txt"}
"""Configuration and vocabulary; with the weights, all that decides what a vector is."""


@dataclass(frozen=True)
class Source:
    """An encoder: a folder, or a model of the hub."""

    name: str
    location: str
    """What sentence-transformers opens: a folder, or a hub id."""
    exports: Path
    """The folder for what is made from it; never inside the user's own."""

    def stamp(self) -> str:
        """What changes when a file changes, told without reading the files; "" where nothing is known.

        Sizes and times of a folder; the commit of a hub model in the local cache, without asking the hub.
        """
        folder = Path(self.location)
        if folder.is_dir():
            stats = [(path.relative_to(folder), path.stat()) for path in self._files()]
            return content_id(*(f"{path.as_posix()}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats))
        return _cached_commit(self.location)

    def identity(self) -> str:
        """The identity of what it computes: of the content of its files, or of its commit on the hub."""
        folder = Path(self.location)
        if folder.is_dir():
            return content_id(*(f"{path.relative_to(folder).as_posix()}:{sha256(path)}" for path in self._files()))
        return content_id(self.location, self.stamp())

    def unchanged(self, stamp: str) -> bool:
        """Whether the files are those that had `stamp`; a hub model outside the cache counts as unchanged."""
        now = self.stamp()
        return now == stamp or (not now and stamp.startswith(_HUB))

    def _files(self) -> Iterator[Path]:
        """The files that sentence-transformers reads: those of the folder and of its modules' folders."""
        folder = Path(self.location)
        folders = {folder}
        modules = folder / "modules.json"
        if modules.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # loading it will say what is wrong
                named = json.loads(modules.read_text(encoding="utf-8"))
                folders |= {folder / str(module["path"]) for module in named}
        for place in sorted(place for place in folders if place.is_relative_to(folder)):
            files = sorted(path for path in place.glob("*") if path.is_file())
            kind = ".safetensors" if any(path.suffix == ".safetensors" for path in files) else ".bin"
            yield from (path for path in files if path.suffix in _PLAIN or path.suffix == kind)


def find(name: str, models: Path) -> Source:
    """The encoder `name`: the embedded one, which lies in `models`, a folder, or a hub id."""
    folder = Path(name).expanduser()
    if name == embedded_encoder.NAME:
        return Source(name, str(models / name), models / f"{_safe(name)}-onnx")
    if folder.is_dir():
        return Source(name, str(folder), models / f"{_safe(str(folder.resolve()))}-onnx")
    return Source(name, name, models / f"{_safe(name)}-onnx")


def _safe(name: str) -> str:
    """A file name for `name`; one that had to be changed is told apart by its hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-60:].lstrip("-.")
    return safe if safe == name else f"{safe}-{content_id(name)}"


def _cached_commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for repository in (name, f"sentence-transformers/{name}"):
        for file in ("modules.json", "config.json"):
            try:
                path = try_to_load_from_cache(repository, file, cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"))
            except HFValidationError:
                continue
            if isinstance(path, str):
                return _HUB + Path(path).parent.name
    return ""
