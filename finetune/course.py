"""A night on its way: what it goes by, what it found so far, and what its steps took."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from assistant import releases
from assistant.releases import Release
from assistant.settings import Settings
from finetune.nights import Step
from finetune.plan import Plan
from retrieval.files import write_text


@dataclass
class Course:
    settings: Settings
    plan: Plan
    champion: Release
    say: Callable[[str], None]
    again: str | None = None
    """The night that is done again."""
    id: str = ""
    terms: str = ""
    """Names what a challenger is trained and judged by: the adapter that serves, recipe, rules, cases, plan."""
    folder: Path = Path()
    steps: list[Step] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what a step takes."""
        self.say(f"{name} …")
        started, cpu_s = time.monotonic(), _cpu_s()
        with _peak() as peak:
            yield
        taken = time.monotonic() - started
        self.steps.append(Step(name, round(taken, 2), round(_cpu_s() - cpu_s, 2), peak[0]))
        self.say(f"{name}: {taken:.0f} s")

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` made in this night, now or before a crash: JSON, written whole or not at all."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(make(), ensure_ascii=False, indent=1) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    @property
    def trained_in(self) -> Path | None:
        """The run that trained its challenger; None if none did."""
        kept = self.folder / "train.json"
        run = json.loads(kept.read_text(encoding="utf-8")).get("run") if kept.exists() else None
        return self.settings.runs / run if run else None

    @property
    def nights(self) -> Path:
        return self.settings.home / "nights"

    def served(self) -> set[str]:
        """The releases that were live at some time."""
        return {entry.release for entry in releases.history(self.settings.releases)}


def _cpu_s() -> float:
    """CPU seconds of this process and its children, those that ended among them."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """The most memory that this process and its children hold while the block runs, looked at twice a second."""
    found, ended = [0], threading.Event()

    def look() -> None:
        this = psutil.Process()
        while True:
            held = 0
            for process in (this, *this.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    held += process.memory_info().rss
            found[0] = max(found[0], held)
            if ended.wait(0.5):
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
