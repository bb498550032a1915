"""The report's plots as SVG whose colours are those of the page, light or dark."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from eval.metrics import METRICS, Metric, metric
from eval.paired import Difference
from eval.report import wording
from eval.results import Arm, Results, Slice
from retrieval.language import Language

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 400
"""Of every plot; the page scales it, so a point is about a pixel on a phone."""
FONT = 11
ROW = 19
INK, MUTED, LINE, ACCENT, WARN, TINT, CARD = (f"#00000{digit}" for digit in range(1, 8))
_PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    WARN: "var(--warn)",
    TINT: "var(--tint)",
    CARD: "var(--card)",
}
FEW = 20
"""Cases under which a slice says little."""
_MARKERS = "osD^vP*X"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": FONT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Plot:
    title: str
    svg: Markup
    alt: str
    """The figures, for those who do not see the plot."""
    caption: str


def plots(results: Results, language: Language) -> list[Plot]:
    """Those that `results` has the figures for."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser has the fonts for Chinese; matplotlib only measures with its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawn = [draw(results, language) for draw in (forest, latency, slices, training)]
    return [plot for plot in drawn if plot]


def forest(results: Results, language: Language) -> Plot | None:
    """Candidate minus baseline by metric, turned so that right is better."""
    differences = results.comparisons[0].differences if results.comparisons else {}
    baseline = next((arm.metrics for arm in results.arms if arm.name == results.baseline), {})
    shares = [it for it in METRICS if it.name in differences and it.unit == "share"]
    others = [
        it
        for it in METRICS
        if it.name in differences and it.unit != "share" and it.name in baseline and baseline[it.name].mean > 0
    ]
    panels = [(rows, unit) for rows, unit in ((shares, "points"), (others, "percent")) if rows]
    if not panels:
        return None
    words = wording.texts(language)["plots"]
    heights = [ROW * len(rows) for rows, _ in panels]
    figure, axes = _figure(heights, _room([it.label[language] for rows, _ in panels for it in rows]))
    for axis, (rows, unit) in zip(axes, panels, strict=True):
        reach: list[float] = []
        for row, it in enumerate(rows):
            difference = differences[it.name]
            scale = 100 if unit == "points" else 100 / baseline[it.name].mean
            ends = [scale * end * (1 if it.better == "higher" else -1) for end in (difference.low, difference.high)]
            colour = {"first": WARN, "second": ACCENT, "": MUTED}[wording.winner(difference, it)]
            axis.barh(row, -scale * it.margin, height=0.8, color=TINT, zorder=0)
            _whisker(axis, ends, row, colour)
            _point(axis, scale * wording.gain(difference, it), row, colour, filled=colour != MUTED)
            reach.append(max(map(abs, ends)))
        axis.axvline(0, color=MUTED, linewidth=1, zorder=1)
        _rows(axis, [it.label[language] for it in rows])
        axis.set_xlabel(words[unit])
        _centred(axis, reach)
        for x, side, key in ((0, "left", "worse"), (1, "right", "better")):
            axis.text(x, 1, words[key], transform=axis.transAxes, color=MUTED, ha=side, va="bottom")
    alt = "; ".join(
        f"{it.label[language]} {wording.change(differences[it.name].mean, it, language)} "
        f"({wording.change_interval(differences[it.name], it, language)})"
        for it in (*shares, *others)
    )
    return _plot("forest", figure, results, language, alt)


def latency(results: Results, language: Language) -> Plot | None:
    """The primary metric of each arm over the time that its answers take."""
    primary, total = metric(results.primary), metric("total")
    arms = [arm for arm in results.arms if primary.name in arm.metrics and total.name in arm.metrics]
    if not arms:
        return None
    words = wording.texts(language)["plots"]
    figure, (axis,) = _figure([210], 44, keys=len(arms))
    for number, arm in enumerate(arms):
        quality, time = arm.metrics[primary.name], arm.metrics[total.name]
        scale = 100 if primary.unit == "share" else 1
        colour = _colour(arm, results)
        axis.plot([time.low, time.high], [scale * quality.mean] * 2, color=colour, linewidth=1.5)
        axis.plot([time.mean] * 2, [scale * quality.low, scale * quality.high], color=colour, linewidth=1.5)
        axis.plot(
            time.mean, scale * quality.mean, _MARKERS[number % len(_MARKERS)], label=arm.name, color=colour,
            markersize=8, markerfacecolor=colour if arm.name != results.baseline else CARD,
        )  # fmt: skip
    axis.set_xlim(left=0)
    axis.grid(color=LINE, linewidth=0.5)
    axis.set_xlabel(words["seconds"])
    axis.tick_params(axis="y", labelcolor=MUTED)
    unit = wording.texts(language)["units"][primary.unit]
    axis.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}{unit}")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
    alt = "; ".join(
        words["alt_arm"].format(
            arm=arm.name,
            quality=_with_interval(arm, primary, language),
            time=_with_interval(arm, total, language),
        )
        for arm in arms
    )
    return _plot("latency", figure, results, language, alt)


def slices(results: Results, language: Language) -> Plot | None:
    """The metric of each slice for baseline and candidate, and their difference; of slices judged by a share."""
    pair = (results.baseline, results.candidate)
    rows = [it for it in results.slices if set(pair) <= it.arms.keys() and metric(it.metric).unit == "share"]
    if not rows:
        return None
    words = wording.texts(language)["plots"]
    labels = [_slice_label(it, results, language) for it in rows]
    figure, (means, changes) = _figure([ROW * len(rows)], _room(labels), columns=2)
    for row, it in enumerate(rows):
        first, second = (100 * it.arms[name] for name in pair)
        means.plot([first, second], [row, row], color=LINE, linewidth=2, zorder=1)
        _point(means, first, row, MUTED, filled=False)
        _point(means, second, row, ACCENT, filled=True)
        if it.difference:
            _whisker(changes, [100 * it.difference.low, 100 * it.difference.high], row, MUTED)
            _point(changes, 100 * it.difference.mean, row, MUTED, filled=True)
    _centred(changes, [100 * max(abs(it.low), abs(it.high)) for it in _telling(rows)])
    changes.axvline(0, color=MUTED, linewidth=1, zorder=1)
    _rows(means, labels)
    _rows(changes, [""] * len(rows))
    for row in range(1, len(rows)):
        if rows[row].by != rows[row - 1].by:
            for axis in (means, changes):
                axis.axhline(row - 0.5, color=LINE, linewidth=1)
    means.set_xlabel("%")
    changes.set_xlabel(words["points"])
    alt = "; ".join(
        words["alt_slice"].format(
            value=label,
            first=f"{pair[0]} {wording.value(it.arms[pair[0]], metric(it.metric), language)}",
            second=f"{pair[1]} {wording.value(it.arms[pair[1]], metric(it.metric), language)}",
        )
        + (f" ({wording.change_interval(it.difference, metric(it.metric), language)})" if it.difference else "")
        for label, it in zip(labels, rows, strict=True)
    )
    return _plot("slices", figure, results, language, alt)


def _slice_label(part: Slice, results: Results, language: Language) -> str:
    """The slice, with its metric where that is not the primary one."""
    named = wording.texts(language)["slices"][part.value] if part.by == "language" else part.value
    return named if part.metric == results.primary else f"{named} · {metric(part.metric).label[language]}"


def training(results: Results, language: Language) -> Plot | None:
    curves = [curve for curve in results.training if curve.values]
    if not curves:
        return None
    words, keys = wording.texts(language)["plots"], wording.texts(language)["keys"]
    names = [keys.get(curve.name, curve.name) for curve in curves]
    figure, (axis,) = _figure([210], 44, keys=len(curves))
    for curve, name in zip(curves, names, strict=True):
        colour = ACCENT if "validation" in curve.name else MUTED
        few = "o-" if len(curve.steps) < 20 else "-"
        axis.plot(curve.steps, curve.values, few, color=colour, label=name, linewidth=1.5, markersize=4)
    axis.grid(color=LINE, linewidth=0.5)
    axis.set_xlabel(words["steps"])
    axis.tick_params(axis="y", labelcolor=MUTED)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
    alt = "; ".join(
        words["alt_curve"].format(
            name=name, first=f"{curve.values[0]:.2f}", last=f"{curve.values[-1]:.2f}", steps=curve.steps[-1]
        )
        for curve, name in zip(curves, names, strict=True)
    )
    return _plot("training", figure, results, language, alt)


def _figure(heights: Sequence[float], left: float, columns: int = 1, keys: int = 0) -> "tuple[Figure, list[Axes]]":
    """Panels of these heights, one above the other, with `left` points for labels, and room for `keys` in a legend."""
    from matplotlib.figure import Figure

    above, below, right = 22 + 18 * (-(-keys // 2)), 40, 12
    total = sum(heights) + (above + below) * len(heights)
    figure, axes, top = Figure(figsize=(WIDTH / 72, total / 72)), [], total
    width = (WIDTH - left - right - 14 * (columns - 1)) / columns
    for height in heights:
        top -= above + height
        for column in range(columns):
            x = left + column * (width + 14)
            axes.append(figure.add_axes((x / WIDTH, top / total, width / WIDTH, height / total)))
        top -= below
    return figure, axes


def _room(labels: Sequence[str]) -> float:
    """Points that the widest label takes: a Han character is as wide as the font is high, others just over half."""
    return min(170, 16 + FONT * max(sum(1.0 if it > "\u2e80" else 0.56 for it in label) for label in labels))


def _rows(axis: "Axes", labels: Sequence[str]) -> None:
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color=LINE, linewidth=0.5)
    axis.set_axisbelow(True)


def _centred(axis: "Axes", reach: Sequence[float]) -> None:
    """As far to both sides of zero as the widest interval; what reaches further is cut off."""
    if reach and max(reach):
        axis.set_xlim(-1.1 * max(reach), 1.1 * max(reach))


def _telling(parts: Sequence[Slice]) -> list[Difference]:
    """The differences that set the scale: those of more than a few cases, if there are any."""
    found = [(part.n, part.difference) for part in parts if part.difference]
    return [it for n, it in found if n >= FEW] or [it for _, it in found]


def _whisker(axis: "Axes", ends: Sequence[float], row: float, colour: str) -> None:
    axis.plot(ends, [row, row], color=colour, linewidth=2, zorder=2)


def _point(axis: "Axes", x: float, row: float, colour: str, filled: bool) -> None:
    axis.plot(x, row, "o", color=colour, markersize=7, markerfacecolor=colour if filled else CARD, zorder=3)


def _colour(arm: Arm, results: Results) -> str:
    return {results.candidate: ACCENT, results.baseline: INK}.get(arm.name, MUTED)


def _with_interval(arm: Arm, it: Metric, language: Language) -> str:
    found = arm.metrics[it.name]
    return f"{wording.value(found.mean, it, language)} ({wording.interval(found, it, language)})"


def _plot(name: str, figure: "Figure", results: Results, language: Language, alt: str) -> Plot:
    words = wording.texts(language)["plots"]
    named = {
        "candidate": results.candidate,
        "baseline": results.baseline,
        "primary": metric(results.primary).label[language],
    }
    title = words[name].format(**named)
    return Plot(title, _svg(figure, f"{language}-{name}"), alt, words[f"{name}_caption"].format(**named))


def _svg(figure: "Figure", name: str) -> Markup:
    """The figure as an element of a page, in the page's size, font and colours.

    `name` salts the ids, which else would be the same in every plot.
    """
    import matplotlib

    drawn = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata=nothing)
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    for colour, page_colour in _PAGE_COLOURS.items():
        svg = svg.replace(f": {colour}", f": {page_colour}")
    return Markup(svg)
