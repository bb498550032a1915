"""An experiment on customers, read from its transcripts: what each arm shows, and whether it differs from the control.

requests → conversations, those of one arm → values of each unit → mean over units → differences to the control
           one id, or one opening without a long pause

Strangers without ids who open alike at the same time are one conversation: nothing tells them apart.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any, Literal

import numpy as np

from assistant.experiment import HOLDOUT, Experiment, Stop
from assistant.state import Recorded, State
from eval.intervals import Interval
from eval.sequential import ALARM, Arm, difference, sample_ratio, sequence

Metric = Literal[
    "resolution", "thumbs_up", "thumbs_down", "handoff", "repeat_contact", "failed", "total_ms", "first_ms"
]
BETTER: dict[Metric, Literal["higher", "lower"]] = {
    "resolution": "higher",
    "thumbs_up": "higher",
    "thumbs_down": "lower",
    "handoff": "lower",
    "repeat_contact": "lower",
    "failed": "lower",
    "total_ms": "lower",
    "first_ms": "lower",
}
REPEAT = timedelta(hours=72)
"""A customer who is back within it was not helped."""
PAUSE = timedelta(minutes=30)
"""After it the same opening, without a conversation's id, begins another conversation."""
ALPHA = 0.05
"""Chance that any arm of a harmless experiment is ever stopped, at most."""
LEAST_UNITS = 50
"""Under so many an arm is not stopped: the interval is right in large samples."""
_COLUMNS = 4
_MEANINGS = """\
Figures are means over units: customers, or conversations of those without an id. Shares are of
  resolution      conversations without handoff and thumb down, whose customer began no other one
                  within 72 hours; of a conversation without a customer the last is not known
  thumbs          replies with a thumb
  handoff         conversations, as is repeat_contact
  failed          requests that broke off, or that the engine gave no answer to
Each interval holds at 95% by itself, however often one looks."""


@dataclass(frozen=True)
class Shown:
    """What an arm has shown so far."""

    name: str
    model: str
    units: int
    conversations: int
    requests: int
    figures: dict[Metric, Interval | None]
    """Means over units with sequential 95% intervals; None with under two units."""
    total_p50_ms: float | None
    """Of the requests that were answered."""
    total_p95_ms: float | None


@dataclass(frozen=True)
class Difference:
    """An arm minus the control."""

    arm: str
    metric: Metric
    interval: Interval | None
    """Sequential, 95%; its n is the units of both. None with under two units in one."""

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        if self.interval is None or self.interval.low <= 0 <= self.interval.high:
            return "undecided"
        return "better" if (self.interval.mean > 0) == (BETTER[self.metric] == "higher") else "worse"


@dataclass(frozen=True)
class Online:
    experiment: Experiment
    at: datetime
    arms: tuple[Shown, ...]
    """The control first."""
    holdout: Shown | None
    """Who gets `assistant` as it always is, for the reader to see; None without any. It is compared to nothing."""
    differences: tuple[Difference, ...]
    split: dict[str, int]
    """Units of each arm up to the first stop."""
    split_p: float
    """That chance alone splits the units so."""
    mixed: int
    """Conversations that more than one way answered; they are left out."""
    young: int
    """Conversations whose customers may still come back: they are not in `resolution` and `repeat_contact`."""
    stops: tuple[Stop, ...]

    @property
    def alarm(self) -> bool:
        """The split is broken, and no comparison holds."""
        return self.split_p < ALARM

    def as_dict(self) -> dict[str, Any]:
        verdicts = [
            {**asdict(each), "verdict": None if self.alarm else each.verdict, "better": BETTER[each.metric]}
            for each in self.differences
        ]
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "at": self.at.isoformat(),
            "arms": [asdict(arm) for arm in self.arms],
            "holdout": self.holdout and asdict(self.holdout),
            "differences": verdicts,
            "split": {"units": self.split, "p": self.split_p, "alarm": self.alarm},
            "mixed": self.mixed,
            "young": self.young,
            "stops": [stop.model_dump(mode="json") for stop in self.stops],
        }

    def as_text(self) -> str:
        experiment = self.experiment
        end = f"{experiment.end:%Y-%m-%d %H:%M %Z}" if experiment.end else "no end"
        lines = [f"{experiment.name}: {experiment.start:%Y-%m-%d %H:%M %Z} to {end}"]
        columns = [*self.arms, *([self.holdout] if self.holdout else [])]
        for i in range(0, len(columns), _COLUMNS):
            lines += ["", *_table(columns[i : i + _COLUMNS])]
        for arm in self.arms[1:]:
            lines += ["", f"{arm.name} minus {experiment.control}"]
            lines += [self._line(each) for each in self.differences if each.arm == arm.name]
        counts = ", ".join(f"{count} {name}" for name, count in self.split.items())
        lines += ["", f"split: {counts}; p = {self.split_p:.2g}" + (", an ALARM: no verdict" if self.alarm else "")]
        lines += [
            f"stopped: {stop.arm} at {stop.at:%Y-%m-%d %H:%M %Z}, {stop.guardrail} is at least {stop.low:.4g}, "
            f"{stop.most:.4g} is allowed"
            for stop in self.stops
        ]
        lines.append(f"left out: {self.mixed} conversations that more than one way answered")
        lines.append(f"not judged yet: {self.young} conversations of the last 72 hours")
        return "\n".join([*lines, "", _MEANINGS])

    def _line(self, found: Difference) -> str:
        if found.interval is None:
            return f"  {found.metric:16}not enough units"
        digits = 0 if found.metric.endswith("_ms") else 3
        mean, low, high = (f"{x:+.{digits}f}" for x in (found.interval.mean, found.interval.low, found.interval.high))
        said = "not decided yet" if found.verdict == "undecided" else f"decided: {found.verdict}"
        return f"  {found.metric:16}{mean:>8}  [{low}, {high}]  {'no verdict' if self.alarm else said}"


def online(state: State, experiment: Experiment, now: datetime, stops: Sequence[Stop] = ()) -> Online:
    """The experiment as its transcripts show it at `now`; `stops` as `read_stops` gives them.

    An arm is compared up to its stop or the control's; the split is checked up to the first stop.

    Raises:
        StorageError: The database cannot be reached.
    """
    stops = tuple(stop for stop in stops if stop.experiment == experiment.name)
    talks = _talks(state.recorded(experiment.start - REPEAT), experiment, now)
    pure = [talk for talk in talks if talk.arm is not None]
    arms = {name: [talk for talk in pure if talk.arm == name] for name in experiment.arms}
    held = [talk for talk in pure if talk.arm == HOLDOUT]
    control = experiment.control
    differences = []
    for name in list(experiment.arms)[1:]:
        until = min((stop.at for stop in stops if stop.arm in (name, control)), default=now)
        first, second = ([talk for talk in arms[side] if talk.ended <= until] for side in (control, name))
        differences += [
            Difference(name, metric, difference(_over_units(first, metric), _over_units(second, metric)))
            for metric in BETTER
        ]
    until = min((stop.at for stop in stops), default=now)
    split = {name: len({talk.unit for talk in arms[name] if talk.ended <= until}) for name in arms}
    return Online(
        experiment=experiment,
        at=now,
        arms=tuple(_shown(name, arm.model, arms[name]) for name, arm in experiment.arms.items()),
        holdout=_shown(HOLDOUT, "assistant", held) if held else None,
        differences=tuple(differences),
        split=split,
        split_p=sample_ratio(list(split.values()), [arm.share for arm in experiment.arms.values()]),
        mixed=sum(talk.mixed for talk in talks),
        young=sum(not talk.judged for talk in pure),
        stops=stops,
    )


def guard(state: State, experiment: Experiment) -> list[Stop]:
    """The arms that break a guardrail now.

    Raises:
        StorageError: The database cannot be reached.
    """
    return broken(state.recorded(experiment.start - REPEAT), experiment, datetime.now(UTC))


def broken(requests: Iterable[Recorded], experiment: Experiment, now: datetime) -> list[Stop]:
    """The arms whose interval lies above a guardrail, one stop for each.

    One may look after every request: the intervals hold at all times at once, and all of them together at `ALPHA`.
    """
    talks = _talks(requests, experiment, now)
    alpha = ALPHA / max(1, len(experiment.arms) * len(experiment.guardrails))
    stops: dict[str, Stop] = {}
    for name in experiment.arms:
        mine = [talk for talk in talks if talk.arm == name]
        for guardrail, bound in experiment.guardrails.items():
            shown = _over_units(mine, guardrail)
            found = sequence(shown.n, shown.mean, shown.variance, alpha)
            if found and shown.n >= LEAST_UNITS and found.low > bound.most and name not in stops:
                stops[name] = Stop(
                    experiment=experiment.name,
                    arm=name,
                    at=now,
                    guardrail=guardrail,
                    mean=found.mean,
                    low=found.low,
                    most=bound.most,
                    units=found.n,
                )
    return list(stops.values())


@dataclass(frozen=True)
class _Talk:
    """A conversation."""

    requests: list[Recorded]
    """In order of time."""
    arms: frozenset[str | None]
    """None is `assistant` as it always is, and any way to answer that was asked for by name."""
    judged: bool
    """Its customer had the time to come back."""
    repeated: bool

    @property
    def mixed(self) -> bool:
        return len(self.arms) > 1

    @property
    def arm(self) -> str | None:
        return None if self.mixed else next(iter(self.arms))

    @property
    def customer(self) -> str | None:
        return next((request.customer for request in self.requests if request.customer), None)

    @property
    def unit(self) -> str:
        """The customer's, as soon as it is known who that is."""
        return next((it.unit for it in self.requests if it.customer), self.requests[0].unit) or ""

    @property
    def began(self) -> datetime:
        return self.requests[0].at

    @property
    def ended(self) -> datetime:
        return self.requests[-1].at


def _talks(requests: Iterable[Recorded], experiment: Experiment, now: datetime) -> list[_Talk]:
    """The conversations in order of their beginnings, and whether their customers came back."""
    groups = _conversations(requests)
    talks = [
        _Talk(
            group,
            frozenset(each.arm if each.experiment == experiment.name else None for each in group),
            judged=now - group[-1].at >= REPEAT,
            repeated=False,
        )
        for group in groups
    ]
    begun: dict[str, list[datetime]] = {}
    for talk in talks:
        if talk.customer:
            begun.setdefault(talk.customer, []).append(talk.began)
    return [replace(talk, repeated=_is_back(talk, begun.get(talk.customer or "", []))) for talk in talks]


def _is_back(talk: _Talk, begun: Sequence[datetime]) -> bool:
    """Whether the customer began another conversation soon after; `begun` are the times of all, in order."""
    later = begun[bisect_right(begun, talk.began) :]
    return bool(later) and later[0] - talk.ended <= REPEAT


def _conversations(requests: Iterable[Recorded]) -> list[list[Recorded]]:
    """Requests, given in order of time, that are known to belong together."""
    found: list[list[Recorded]] = []
    under_way: dict[tuple[str, ...], list[Recorded]] = {}
    for request in requests:
        if request.conversation:
            key: tuple[str, ...] = (request.tenant, request.conversation)
        elif request.opening:
            key = (request.tenant, request.customer or "", request.opening)
        else:
            continue
        talk = under_way.get(key)
        if talk is None or (not request.conversation and request.at - talk[-1].at >= PAUSE):
            talk = under_way[key] = []
            found.append(talk)
        talk.append(request)
    return found


def _values(talk: _Talk, metric: Metric) -> list[float]:
    requests = talk.requests
    answered = [request for request in requests if request.status == "answered"]
    thumbs = [request.thumb for request in requests if request.thumb]
    handed_over = any(request.route == "handoff" for request in requests)
    match metric:
        case "resolution":
            return [float(not (handed_over or "down" in thumbs or talk.repeated))] if talk.judged else []
        case "thumbs_up" | "thumbs_down":
            return [float(metric == f"thumbs_{thumb}") for thumb in thumbs]
        case "handoff":
            return [float(handed_over)]
        case "repeat_contact":
            return [float(talk.repeated)] if talk.judged and talk.customer else []
        case "failed":
            return [float(request.status == "failed" or request.engine_failed) for request in requests]
        case "total_ms":
            return [request.total_ms for request in answered]
        case "first_ms":
            return [request.first_ms for request in answered if request.first_ms]


def _over_units(talks: Iterable[_Talk], metric: Metric) -> Arm:
    """The mean over units of each unit's mean: many requests of one customer are one observation."""
    units: dict[str, list[float]] = {}
    for talk in talks:
        units.setdefault(talk.unit, []).extend(_values(talk, metric))
    means = np.array([fmean(values) for values in units.values() if values])
    if len(means) == 0:
        return Arm(0, 0.0, 0.0)
    if metric.endswith("_ms"):
        variance = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    else:
        variance = float(np.append(means, (0.0, 1.0)).var())  # never 0, as that of `sequential.proportion`
    return Arm(len(means), float(means.mean()), variance)


def _shown(name: str, model: str, talks: Sequence[_Talk]) -> Shown:
    over = {metric: _over_units(talks, metric) for metric in BETTER}
    times = [ms for talk in talks for ms in _values(talk, "total_ms")]
    return Shown(
        name=name,
        model=model,
        units=len({talk.unit for talk in talks}),
        conversations=len(talks),
        requests=sum(len(talk.requests) for talk in talks),
        figures={metric: sequence(found.n, found.mean, found.variance) for metric, found in over.items()},
        total_p50_ms=float(np.percentile(times, 50)) if times else None,
        total_p95_ms=float(np.percentile(times, 95)) if times else None,
    )


def _table(arms: Sequence[Shown]) -> list[str]:
    rows: list[tuple[str, list[str]]] = [("", [arm.name for arm in arms])]
    for count in ("units", "conversations", "requests"):
        rows.append((count, [str(getattr(arm, count)) for arm in arms]))
    for metric in BETTER:
        rows.append((metric, [_figure(arm.figures[metric], metric) for arm in arms]))
    for percentile in ("total_p50_ms", "total_p95_ms"):
        times = [getattr(arm, percentile) for arm in arms]
        rows.append((percentile, ["-" if ms is None else f"{ms:.0f}" for ms in times]))
    return [f"{name:18}" + "".join(f"{cell:>20}" for cell in cells) for name, cells in rows]


def _figure(found: Interval | None, metric: Metric) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.{0 if metric.endswith('_ms') else 3}f} (n={found.n})"
