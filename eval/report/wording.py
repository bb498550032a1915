"""The report's words and figures in the reader's language. The texts: `texts.yaml`."""

import functools
from pathlib import Path
from typing import Any

import yaml

from eval.intervals import Interval
from eval.metrics import Metric
from eval.paired import Difference
from retrieval.language import Language

FOLDER = Path(__file__).parent
SIGNIFICANT = 0.05
"""Of `Difference.p_holm`, below which two arms differ."""
_SMALLEST = {"share": 0.001, "tokens": 0.1, "s": 0.001, "score": 0.01}
"""Change that is shown as other than 0, by unit."""
_ALPHA_LEVELS = ((0.0, "none"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))


@functools.cache
def texts(language: Language) -> dict[str, Any]:
    """Every text of the report in `language`."""
    return _in(language, yaml.safe_load((FOLDER / "texts.yaml").read_text(encoding="utf-8")))  # type: ignore[no-any-return]


def _in(language: Language, node: Any) -> Any:
    if isinstance(node.get("en"), str):
        return node[language]
    return {key: _in(language, child) for key, child in node.items()}


def value(number: float, metric: Metric, language: Language) -> str:
    """`88%`, `1.80 s`."""
    return f"{_number(number, metric)}{texts(language)['units'][metric.unit]}"


def interval(around: Interval, metric: Metric, language: Language) -> str:
    """`83–92%`."""
    return f"{_number(around.low, metric)}–{value(around.high, metric, language)}"


def change(number: float, metric: Metric, language: Language, signed: bool = True) -> str:
    """`+5.2 points`, `−0.30 s`."""
    unit = texts(language)["units"]["change" if metric.unit == "share" else metric.unit]
    digits = _number(abs(number), metric, change=True)
    sign = ("−" if number < 0 else "+") if signed and digits.strip("0.") else ""
    return f"{sign}{digits}{unit}"


def detectable(difference: Difference, metric: Metric, language: Language) -> str:
    """The smallest difference that would probably have been seen, rounded up to what is shown: never `0.0 points`."""
    return change(max(difference.smallest_detectable, _SMALLEST[metric.unit]), metric, language, signed=False)


def change_interval(difference: Difference, metric: Metric, language: Language) -> str:
    """`+1.0 to +9.4 points`, of which the first has no unit."""
    words = texts(language)["units"]
    low = change(difference.low, metric, language).removesuffix(
        words["change" if metric.unit == "share" else metric.unit]
    )
    return f"{low}{words['to']}{change(difference.high, metric, language)}"


def _number(number: float, metric: Metric, change: bool = False) -> str:
    match metric.unit:
        case "share":
            return f"{100 * number:.{int(change)}f}"
        case "tokens":
            return f"{number:.{int(change)}f}"
        case "s":
            return f"{number:.{3 if abs(number) < 0.1 else 2}f}"
        case "score":
            return f"{number:.2f}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def gain(difference: Difference, metric: Metric) -> float:
    """The mean difference, above 0 where the second arm is better."""
    return difference.mean if metric.better == "higher" else -difference.mean


def winner(difference: Difference | None, metric: Metric) -> str:
    """`first` or `second`; empty where the difference is not significant."""
    if difference is None or difference.p_holm >= SIGNIFICANT or difference.mean == 0:
        return ""
    return "second" if gain(difference, metric) > 0 else "first"


def alpha_level(alpha: float) -> str:
    """What an agreement of `alpha` is called: Landis and Koch, "The measurement of observer agreement" (1977)."""
    return next((level for bound, level in _ALPHA_LEVELS if alpha <= bound), "almost perfect")
