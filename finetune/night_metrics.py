"""What the nights came to, for Prometheus: through the service's `/metrics`, or a file that node_exporter collects."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eval.metrics import PRIMARY
from finetune.nights import Night, Word
from retrieval.files import write_text

_ROWS = {
    "new": ("new",),
    "kept": ("examples: training", "examples: validation"),
    "quarantined": ("quarantined",),
    "redacted": ("redacted",),
}
"""What each kind of rows is called in a night's counts: all that are there are added."""


def render(nights: Sequence[Night], checked: datetime | None = None) -> bytes:
    """The metrics of `nights`, oldest first, as Prometheus reads them; the same nights give the same bytes.

    `checked` is when a night last found nothing new, which leaves no night behind.
    """
    registry = CollectorRegistry()
    registry.register(_Nights(nights, checked))
    return generate_latest(registry)


def write_textfile(path: Path, nights: Sequence[Night], checked: datetime | None = None) -> None:
    """Write what `render` says to a file of node_exporter's `--collector.textfile.directory`, whole or not at all.

    Raises:
        StorageError: The disk refused; the file that was there before is unchanged.
    """
    write_text(path, render(nights, checked).decode())


@dataclass(frozen=True, eq=False)  # the registry hashes it, and nights hold lists
class _Nights(Collector):
    nights: Sequence[Night]
    checked: datetime | None

    def collect(self) -> Iterator[Metric]:
        words = [night.word for night in self.nights]
        total = CounterMetricFamily("assistant_nightly_nights", "Nights, by how they ended.", labels=["word"])
        for word in get_args(Word):
            total.add_metric([word], words.count(word))
        yield total
        if self.nights or self.checked:
            yield from _times(self.nights, self.checked)
        if self.nights:
            yield from _last(self.nights)


def _times(nights: Sequence[Night], checked: datetime | None) -> Iterator[Metric]:
    idle = [checked.timestamp()] if checked else []
    good = [_timestamp(night) for night in nights if night.word != "failed"] + idle
    # 0 where none was: "too long ago" is then true, as it should be.
    text = "When the last night began that did not fail, or found nothing new."
    yield _gauge("last_success_timestamp_seconds", text, max(good, default=0))
    if idle:
        yield _gauge("last_idle_timestamp_seconds", "When the last night began that found nothing new.", idle[0])


def _last(nights: Sequence[Night]) -> Iterator[Metric]:
    night = nights[-1]
    text = "When the last night began that found something new."
    yield _gauge("last_run_timestamp_seconds", text, _timestamp(night))
    states = {word: float(word == night.word) for word in get_args(Word)}
    yield _gauges("last_word", "1 for how the last night ended.", "word", states)
    found = {kind: [night.counts[name] for name in names if name in night.counts] for kind, names in _ROWS.items()}
    rows = {kind: sum(counts) for kind, counts in found.items() if counts}
    yield _gauges("rows", "What became of the last night's records.", "kind", rows)
    seconds: defaultdict[str, float] = defaultdict(float)
    for step in night.steps:  # an adapter and articles alone may each have been evaluated
        seconds[step.name] += step.seconds
    yield _gauges("step_seconds", "What the steps of the last night took.", "step", seconds)
    measured = [other.metrics[PRIMARY] for other in nights if PRIMARY in other.metrics]
    if measured:
        text = f"Mean of the primary metric ({PRIMARY}) of the release that serves, when it was last measured."
        yield _gauge("primary", text, measured[-1])


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"assistant_nightly_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"assistant_nightly_{name}", text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _timestamp(night: Night) -> float:
    return datetime.fromisoformat(night.at).timestamp()
