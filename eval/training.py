"""How the adapter that is evaluated was trained: its record, and its curves out of TensorBoard's files."""

import json
from pathlib import Path
from typing import Any

from eval.results import Curve

_CURVES = {"loss/train": "loss", "loss/validation": "validation loss"}


def trained(adapters: Path, runs: Path, adapter: str) -> tuple[dict[str, Any], list[Curve]]:
    """What is on record of an adapter's training; nothing where it was trained elsewhere."""
    try:
        record = json.loads((adapters / adapter / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, []
    kept = {name: record.get(name) for name in ("run", "index", "prompt", "languages", "recipe")}
    return kept | {"log_files": len(record.get("logs", ()))}, _curves(runs / str(record.get("run")) / "tensorboard")


def _curves(folder: Path) -> list[Curve]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return []
    events = EventAccumulator(str(folder))
    events.Reload()
    found = []
    for tag in events.Tags()["scalars"]:
        if tag in _CURVES:
            scalars = events.Scalars(tag)
            found.append(Curve(_CURVES[tag], [each.step for each in scalars], [each.value for each in scalars]))
    return found
