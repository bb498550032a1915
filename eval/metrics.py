"""The metrics of the evaluation: what each is called, which way is better, and how much worse still counts as equal."""

from dataclasses import dataclass
from typing import Literal

from retrieval.language import Language

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Score:
    """What a scorer found in one answer."""

    value: float | None
    """None where the case does not ask for it, or it could not be judged."""
    evidence: str = ""
    """For people: what was looked for and what was found."""


@dataclass(frozen=True)
class Metric:
    name: str
    label: dict[Language, str]
    better: Better
    margin: float
    """A loss smaller than this is no loss (non-inferiority)."""
    unit: Literal["share", "score", "s", "tokens"] = "share"
    """A share is from 0 to 1, of answers or of what is in one; a score has its own range."""


def _metric(name: str, zh: str, better: Better = "higher", margin: float = 0.05, unit: str = "share") -> Metric:
    return Metric(name, {"en": name, "zh": zh}, better, margin, unit)  # type: ignore[arg-type]


METRICS = (
    _metric("facts", "事实齐全"),
    _metric("grounded", "有据"),
    _metric("citation precision", "引用准确率"),
    _metric("citation recall", "引用覆盖率"),
    _metric("abstention", "该拒答时拒答"),
    _metric("route", "路由正确"),
    _metric("no invented figures", "没有编造数字"),
    _metric("ROUGE-L", "ROUGE-L"),
    _metric("BLEU", "BLEU"),
    _metric("chrF", "chrF"),
    _metric("similarity", "语义相似度", margin=0.02, unit="score"),
    _metric("right language", "语言一致"),
    _metric("style", "文风"),
    _metric("safe", "安全"),
    _metric("reference perplexity", "参考答案困惑度", "lower", 1.0, "score"),
    _metric("judge", "评审模型", margin=0.1),
    _metric("words", "长度", "lower", 20.0, "tokens"),
    _metric("first token", "首字时间", "lower", 0.5, "s"),
    _metric("total", "总时间", "lower", 1.0, "s"),
    _metric("between tokens", "字间时间", "lower", 0.05, "s"),
    _metric("answer tokens", "回答长度", "lower", 20.0, "tokens"),
    _metric("CPU", "CPU 时间", "lower", 1.0, "s"),
)
"""In the order of the report."""
PRIMARY = "facts"
"""Decides, unless another one is chosen."""
COSTS = ("words", "first token", "total", "between tokens", "answer tokens", "CPU")
"""What an answer takes is told beside the verdict, and decides nothing."""
QUALITY = tuple(metric.name for metric in METRICS if metric.name not in COSTS)


def metric(name: str) -> Metric:
    return next(metric for metric in METRICS if metric.name == name)
