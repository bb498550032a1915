"""The verdict of an evaluation and its reasons, in words."""

from collections.abc import Mapping, Sequence

from eval.cases import Case
from eval.metrics import QUALITY, metric
from eval.paired import Difference, not_worse
from eval.results import Slice, Verdict
from retrieval.language import Language


def verdict_of(main: Mapping[str, Difference], primary: str, incomplete: bool) -> Verdict:
    """By the primary metric's interval; a candidate that is better in it and surely worse elsewhere is `mixed`."""
    if incomplete:
        return "incomplete"
    if _worse(primary, main[primary]):
        return "worse"
    losses = _losses(main, primary)
    if _better(primary, main[primary]):
        return "mixed" if losses else "better"
    return "worse" if losses else "no difference"


def _losses(main: Mapping[str, Difference], primary: str) -> list[str]:
    """The other metrics of quality in which the candidate is significantly worse after Holm's correction."""
    return [name for name in QUALITY if name != primary and name in main and _is_loss(name, main[name])]


def _worse(name: str, found: Difference) -> bool:
    return found.high < 0 if metric(name).better == "higher" else found.low > 0


def _better(name: str, found: Difference) -> bool:
    return found.low > 0 if metric(name).better == "higher" else found.high < 0


def _is_loss(name: str, found: Difference) -> bool:
    return _worse(name, found) and found.p_holm < 0.05


def _is_gain(name: str, found: Difference) -> bool:
    return _better(name, found) and found.p_holm < 0.05


def sentence(
    verdict: Verdict, main: Mapping[str, Difference], primary: str, baseline: str, candidate: str, language: Language
) -> str:
    """The verdict for a reader, with its uncertainty."""
    texts = _VERDICTS[language]
    if verdict == "incomplete":
        return texts["incomplete"]
    found, losses = main[primary], _losses(main, primary)
    kind = "worse elsewhere" if verdict == "worse" and not _worse(primary, found) else verdict
    return texts[kind].format(
        candidate=candidate,
        baseline=baseline,
        metric=metric(primary).label[language],
        change=f"{_told(primary, found.mean)} [{_told(primary, found.low)}, {_told(primary, found.high)}], n={found.n}",
        detectable=_told(primary, found.smallest_detectable).lstrip("+"),
        losses=_SEPARATOR[language].join(metric(name).label[language] for name in losses),
    )


def findings(
    main: Mapping[str, Difference],
    primary: str,
    slices: Sequence[Slice],
    lost: Mapping[str, int],
    cases: Sequence[Case],
    about: str,
    language: Language,
) -> list[str]:
    """What else a reader must know: the other metrics, slices that lost, costs, cases without an answer."""
    texts, separator = _FINDINGS[language], _SEPARATOR[language]

    def named(names: Sequence[str]) -> str:
        return separator.join(
            f"{metric(name).label[language]} {_told(name, main[name].mean)} [{_told(name, main[name].low)}, "
            f"{_told(name, main[name].high)}]"
            for name in names
        )

    quality = [name for name in QUALITY if name in main and name != primary]
    gains = [name for name in quality if _is_gain(name, main[name])]
    losses = [name for name in quality if _is_loss(name, main[name])]
    rest = [name for name in quality if name not in (*gains, *losses)]
    equal = [name for name in rest if not_worse(main[name], metric(name).margin, metric(name).better)]
    unknown = [name for name in rest if name not in equal]
    found = [about] if about else []
    found += [texts["losses"].format(named(losses))] if losses else []
    found += [texts["gains"].format(named(gains))] if gains else []
    found += [texts["equal"].format(named(equal))] if equal else []
    found += [texts["unknown"].format(named(unknown))] if unknown else []
    hurt = [each for each in slices if each.by == "slice" and each.difference and _worse(each.metric, each.difference)]
    found += [texts["hurt"].format(separator.join(f"{each.value} (n={each.n})" for each in hurt))] if hurt else []
    costs = [name for name in ("first token", "total", "CPU", "answer tokens") if name in main]
    found += [texts["costs"].format(named(costs))] if costs else []
    found += [texts["failed"].format(arm=arm, count=count, n=len(cases)) for arm, count in lost.items() if count]
    return found


def _told(name: str, value: float) -> str:
    """A change of a metric, in percentage points where it is a share."""
    unit = metric(name).unit
    return f"{100 * value:+.1f}" if unit == "share" else f"{value:+.2f} s" if unit == "s" else f"{value:+.2f}"


_SEPARATOR: dict[Language, str] = {"en": ", ", "zh": "、"}
_VERDICTS: dict[Language, dict[str, str]] = {
    "en": {
        "better": "{candidate} is better than {baseline}: {metric} {change}; in nothing else is it significantly "
        "worse.",
        "mixed": "{candidate} is better than {baseline} in {metric}, {change}, but significantly worse in: {losses}.",
        "worse": "{candidate} is worse than {baseline}: {metric} {change}.",
        "worse elsewhere": "{candidate} is no better than {baseline} in {metric}, {change}, and significantly worse "
        "in: {losses}.",
        "no difference": "No difference between {candidate} and {baseline} is shown: {metric} {change}; one of "
        "{detectable} would probably have been seen.",
        "incomplete": "No verdict: too few cases were answered by both arms, or the deciding metric has none.",
    },
    "zh": {
        "better": "{candidate} 优于 {baseline}：{metric} {change}；其他指标均无显著下降。",
        "mixed": "{candidate} 的{metric}优于 {baseline}（{change}），但以下指标显著变差：{losses}。",
        "worse": "{candidate} 不如 {baseline}：{metric} {change}。",
        "worse elsewhere": "{candidate} 的{metric}并不优于 {baseline}（{change}），且以下指标显著变差：{losses}。",
        "no difference": "没有发现 {candidate} 与 {baseline} 有差异：{metric} {change}；"
        "若相差 {detectable}，多半会被发现。",
        "incomplete": "没有结论：两组都回答了的用例太少，或没有可判定的主要指标。",
    },
}
_FINDINGS: dict[Language, dict[str, str]] = {
    "en": {
        "losses": "Significantly worse: {}.",
        "gains": "Significantly better: {}.",
        "equal": "Not worse by more than the margin: {}.",
        "unknown": "Too uncertain to say: {}.",
        "hurt": "Worse, before correction, in the slices: {}.",
        "costs": "Cost of an answer, candidate minus baseline: {}.",
        "failed": "{arm}: {count} of {n} cases got no answer and are left out.",
    },
    "zh": {
        "losses": "显著变差：{}。",
        "gains": "显著变好：{}。",
        "equal": "下降不超过容许范围：{}。",
        "unknown": "不确定，无法下结论：{}。",
        "hurt": "以下切片中变差（未校正）：{}。",
        "costs": "每个回答的成本（候选减基线）：{}。",
        "failed": "{arm}：{n} 个用例中有 {count} 个没有回答，未计入。",
    },
}
