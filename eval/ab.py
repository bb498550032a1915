"""The A/B evaluation: the same cases through several arms of the running service, compared in pairs."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from assistant.client import complete
from eval.cases import Case
from eval.intervals import Interval as Difference
from eval.intervals import clustered_mean
from eval.scorers import score
from retrieval.errors import InputError
from retrieval.files import write_text

ARMS = ("rag", "rag+lora", "base", "lora")
CONCURRENCY = 8
RESAMPLES = 2000
_SCORES = ("facts", "cited", "no invented figures", "right language")


@dataclass(frozen=True)
class Answer:
    """One answer of one arm, with its scores and the evidence for them."""

    case: Case
    arm: str
    text: str
    extension: dict[str, Any]
    scores: dict[str, bool | None]
    seconds: float


@dataclass(frozen=True)
class Report:
    arms: tuple[str, ...]
    answers: tuple[Answer, ...]

    def rate(self, arm: str, name: str) -> tuple[float | None, int]:
        """Mean of a score over the cases it applies to (None if to none), and how many they are."""
        scores = [answer.scores[name] for answer in self.answers if answer.arm == arm]
        values = [float(score) for score in scores if score is not None]
        return (float(np.mean(values)) if values else None), len(values)

    def difference(self, name: str) -> Difference | None:
        """How the last arm differs from the first in a score; None when nothing can be compared."""
        first = {a.case.id: a for a in self.answers if a.arm == self.arms[0]}
        last = {a.case.id: a for a in self.answers if a.arm == self.arms[-1]}
        groups: dict[str, list[float]] = {}
        for name_of_case, answer in last.items():
            one, two = first[name_of_case].scores[name], answer.scores[name]
            if one is not None and two is not None:
                groups.setdefault(answer.case.group or name_of_case, []).append(float(two) - float(one))
        return clustered_difference(list(groups.values())) if len(groups) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        arms = {
            arm: {
                "scores": {name: dict(zip(("mean", "n"), self.rate(arm, name), strict=True)) for name in _SCORES},
                "routes": dict(Counter(a.extension["route"] for a in self.answers if a.arm == arm)),
                "seconds_p50": float(np.median([a.seconds for a in self.answers if a.arm == arm])),
            }
            for arm in self.arms
        }
        differences = {}
        for name in _SCORES:
            difference = self.difference(name) if len(self.arms) > 1 else None
            differences[name] = vars(difference) if difference else None
        return {"arms": arms, "differences": differences, "of": [self.arms[0], self.arms[-1]]}

    def as_text(self) -> str:
        lines = [f"{'':22}" + "".join(f"{arm:>18}" for arm in self.arms) + f"{'difference':>26}"]
        for name in _SCORES:
            rates = [self.rate(arm, name) for arm in self.arms]
            cells = ["-" if mean is None else f"{mean:.3f} (n={n})" for mean, n in rates]
            difference = self.difference(name) if len(self.arms) > 1 else None
            shown = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" if difference else ""
            lines.append(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells) + f"{shown:>26}")
        for arm in self.arms:
            mine = [a for a in self.answers if a.arm == arm]
            routes = ", ".join(
                f"{count} {route}" for route, count in Counter(a.extension["route"] for a in mine).most_common()
            )
            lines.append(f"{arm}: {routes}; median {np.median([a.seconds for a in mine]):.1f} s an answer")
        if len(self.arms) > 1:
            lines.append(f"difference: {self.arms[-1]} minus {self.arms[0]}, 95% bootstrap interval over groups")
        return "\n".join(lines)

    def write_answers(self, path: Path) -> None:
        """Every answer with its case and scores, one JSON object a line."""
        rows = (
            {
                "id": a.case.id,
                "arm": a.arm,
                "asked": a.case.conversation()[-1]["content"],
                "answer": a.text,
                **a.extension,
                "scores": a.scores,
                "seconds": round(a.seconds, 2),
            }
            for a in self.answers
        )
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def compare(cases: Sequence[Case], arms: Sequence[str], url: str, key: str | None = None) -> Report:
    """Ask every arm every case through the service at `url`.

    Raises:
        InputError: An arm is unknown.
        EngineError: The service cannot be reached or refuses a case.
    """
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"unknown arm {arm!r}; the arms are {', '.join(ARMS)}")

    def ask(job: tuple[Case, str]) -> Answer:
        case, arm = job
        started = time.monotonic()
        reply = complete(url, f"assistant:{arm}", case.conversation(), key)
        seconds = time.monotonic() - started
        text = reply["choices"][0]["message"]["content"]
        return Answer(case, arm, text, reply["assistant"], score(case, reply), seconds)

    jobs = [(case, arm) for case in cases for arm in arms]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(tqdm(pool.map(ask, jobs), total=len(jobs), desc="asking", unit="answer"))
    return Report(tuple(arms), tuple(answers))


def clustered_difference(groups: list[list[float]]) -> Difference:
    """The mean of paired differences, second arm minus first, with an interval over whole groups of cases."""
    return clustered_mean(groups, RESAMPLES)
