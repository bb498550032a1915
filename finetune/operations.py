"""The operations page: what the nights came to, which release serves, and going back to the one before."""

import hmac
import io
import logging
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.responses import FileResponse

from assistant import canary, releases
from assistant.access import Tenant
from assistant.redaction import redact
from assistant.service import page_headers
from assistant.state import State
from eval.metrics import METRICS, PRIMARY
from finetune.nights import Night, read_all
from retrieval.errors import InputError
from retrieval.files import alone
from retrieval.language import Language

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path(__file__).parent / "operations_page"
TICKET_S = 60
"""How long a link to a report opens it: a browser that follows a link sends no key."""
MOST_DRAWN = 60
"""Nights of a plot."""
ROWS: dict[str, tuple[str, ...]] = {
    "kept": ("examples: training", "examples: validation"),
    "duplicates": ("turns: duplicate",),
    "quarantined": ("quarantined",),
}
"""What became of a night's rows, and what its counts call it: all that are there are added."""
_WORDS: dict[Language, dict[str, str]] = {
    "en": {"kept": "kept", "duplicates": "duplicates", "quarantined": "quarantined", "promoted": "promoted"},
    "zh": {"kept": "保留", "duplicates": "重复", "quarantined": "隔离", "promoted": "已上线"},
}
_INK, _MUTED, _LINE, _ACCENT, _WARN, _CARD = (f"#00000{digit}" for digit in range(1, 7))
_COLOURS = {
    _INK: "light-dark(#1b2429, #e6ecef)",
    _MUTED: "light-dark(#5a6870, #9aa9b1)",
    _LINE: "light-dark(#d9e0e4, #324048)",
    _ACCENT: "light-dark(#0b6675, #6cc5d3)",
    _WARN: "light-dark(#b36b00, #f3c877)",
    _CARD: "light-dark(#fff, #1a2328)",
}
"""Those of the page, which an image cannot ask for."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _LINE,
    "ytick.labelcolor": _MUTED,
}
_drawing = threading.Lock()
"""matplotlib's settings are the whole process's."""
_log = logging.getLogger("assistant")
_File = Literal["operations.css", "operations.js"]
_Name = Annotated[str, StringConstraints(pattern="^[0-9a-f]{12}$")]
"""Of a release."""


class _Rollback(BaseModel):
    model_config = ConfigDict(extra="forbid")

    live: str
    """The release that served when the person decided."""
    to: str


class _Stop(BaseModel):
    model_config = ConfigDict(extra="forbid")

    release: _Name


class _Approval(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: _Name
    by: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


def router(
    nights: Path, served: Path, evaluations: Path, state: State, admitted: Callable[[Request], Tenant]
) -> APIRouter:
    """The page and its requests, which need `admitted`; `served` is the folder of releases.

    What changes anything comes as JSON: pages of others cannot send that without being asked first.
    """
    routes = APIRouter(prefix="/operations", include_in_schema=False)
    keyed = [Depends(admitted)]
    headers = page_headers()
    key = secrets.token_bytes(32)

    @routes.get("")
    def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=headers)

    @routes.get("/files/{name}")
    def file(name: _File) -> Response:
        return FileResponse(PAGE / name, headers=headers)

    @routes.get("/nights", dependencies=keyed)
    def all_nights() -> list[dict[str, Any]]:
        """The nights, the newest first."""
        return [asdict(night) for night in reversed(read_all(nights))]

    @routes.get("/plots/metric.svg", dependencies=keyed)
    def metric_plot(name: Annotated[str, Query(max_length=100)] = PRIMARY, lang: Language = "en") -> Response:
        return _image(_metric_svg(read_all(nights), name, lang))

    @routes.get("/plots/rows.svg", dependencies=keyed)
    def rows_plot(lang: Language = "en") -> Response:
        return _image(_rows_svg(read_all(nights), lang))

    @routes.get("/releases", dependencies=keyed)
    def all_releases() -> dict[str, Any]:
        """What serves, what served before it, what waits for a signature, and all that ever served, newest first."""
        return _releases(served, nights)

    @routes.post("/rollback")
    def rollback(given: _Rollback, tenant: Annotated[Tenant, Depends(admitted)]) -> dict[str, Any]:
        """Make live what was so before, if the two are still those that the person saw."""
        with alone(served):
            now = _releases(served, nights)
            if (given.live, given.to) != (now["live"], now["before"]):
                raise HTTPException(409, f"meanwhile {now['live']} serves, and {now['before']} did before; look again")
            releases.rollback(served)
        _log.warning("%s went back from release %s to %s", tenant.name, given.live, given.to)
        return _releases(served, nights)

    @routes.post("/approve")
    def approve(given: _Approval, tenant: Annotated[Tenant, Depends(admitted)]) -> dict[str, Any]:
        """Sign a release, so that it may go live."""
        releases.approve(served, given.name, given.by)
        _log.info("%s approved release %s", tenant.name, given.name)
        return _releases(served, nights)

    @routes.get("/canary", dependencies=keyed)
    def on_trial() -> dict[str, Any] | None:
        """What is on trial, for which share of the customers, and until when; null if nothing is."""
        trial = canary.read(served)
        return trial.model_dump(mode="json") if trial else None

    @routes.post("/stop")
    def stop(given: _Stop, tenant: Annotated[Tenant, Depends(admitted)]) -> dict[str, Any] | None:
        """Take a release off trial, if it still is: its customers get the live one."""
        why = canary.Stopped(at=datetime.now(UTC), reason=f"{tenant.name} stopped it")
        canary.stop(served, given.release, why)
        _log.warning("%s stopped the trial of release %s", tenant.name, given.release)
        return on_trial()

    @routes.get("/evaluations", dependencies=keyed)
    def reports() -> list[str]:
        """The evaluations that have a report to read."""
        return sorted(path.parent.name for path in evaluations.glob("*/report.html"))

    @routes.post("/evaluations/{id}/ticket", dependencies=keyed)
    def ticket(id: str) -> dict[str, str]:
        """What opens the report for a minute."""
        report_of(id)
        return {"ticket": _ticket(key, id, _minute())}

    @routes.get("/evaluations/{id}")
    def report(id: str, request: Request, ticket: Annotated[str, Query(max_length=64)] = "") -> Response:
        """The evaluation's report, for an admin's key or a ticket; under its own policy, away from this site's data."""
        valid = (_ticket(key, id, _minute() - ago) for ago in (0, 1))
        if not any(hmac.compare_digest(ticket.encode(), each.encode()) for each in valid):
            admitted(request)
        alone_there = {"Content-Security-Policy": "sandbox allow-scripts; frame-ancestors 'none'"}
        return FileResponse(report_of(id), headers=headers | alone_there | {"Cache-Control": "no-store"})

    def report_of(id: str) -> Path:
        found = next((path for path in evaluations.glob("*/report.html") if path.parent.name == id), None)
        if found is None:
            raise HTTPException(404, f"there is no report of an evaluation {redact(id)[:60]!r}; run: assistant ab")
        return found

    return routes


def _releases(folder: Path, nights: Path) -> dict[str, Any]:
    """What a night refused is not offered for a signature; who signs it on the command line takes the gate's place."""
    refused = {night.challenger for night in read_all(nights) if night.word in ("kept", "failed")}
    history = releases.history(folder)
    live = releases.live(folder).id if (folder / "live").exists() else None
    before = [entry.release for entry in history if entry.release != live]
    return {
        "live": live,
        "before": before[-1] if before else None,
        "proposed": [
            {
                "at": releases.proposed_at(folder, name).isoformat(),
                "release": name,
                "parts": _parts(folder, name),
                "approval": asdict(approval) if (approval := releases.approved(folder, name)) else None,
            }
            for name in reversed(releases.proposed(folder))
            if (releases.waits(folder, name) and name not in refused) or releases.approved(folder, name)
        ],
        "history": [
            {"at": entry.at.isoformat(), "release": entry.release, "parts": _parts(folder, entry.release)}
            for entry in reversed(history)
        ],
    }


def _parts(folder: Path, name: str) -> dict[str, Any] | None:
    """What the release is made of; None where its file is gone."""
    try:
        return asdict(releases.read(folder, name))
    except InputError:
        return None


def _minute() -> int:
    return int(time.time() // TICKET_S)


def _ticket(key: bytes, id: str, minute: int) -> str:
    return hmac.new(key, f"{minute} {id}".encode("utf-8", "replace"), "sha256").hexdigest()


def _image(svg: str) -> Response:
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
    return Response(svg, media_type="image/svg+xml", headers=page_headers() | policy)


def _metric_svg(nights: Sequence[Night], name: str, language: Language) -> str:
    """The metric of the release that served after each night; full points are nights that promoted one."""
    shown = [night for night in nights if name in night.metrics][-MOST_DRAWN:]
    scale = 100 if any(metric.name == name and metric.unit == "share" for metric in METRICS) else 1

    def draw(figure: "Figure") -> None:
        axis = _axis(figure, shown)
        values = [scale * night.metrics[name] for night in shown]
        axis.plot(range(len(shown)), values, color=_ACCENT, linewidth=1.5)
        for x, (night, value) in enumerate(zip(shown, values, strict=True)):
            inside = _ACCENT if night.word == "promoted" else _CARD
            axis.plot(x, value, "o", color=_ACCENT, markersize=7, markerfacecolor=inside)
        axis.plot([], [], "o", color=_ACCENT, markersize=7, label=_WORDS[language]["promoted"])
        axis.margins(y=0.15)
        axis.grid(axis="y", color=_LINE, linewidth=0.5)
        axis.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}{'%' if scale == 100 else ''}")
        _legend(axis)

    return _svg(draw)


def _rows_svg(nights: Sequence[Night], language: Language) -> str:
    """What became of each night's rows, one on the other."""
    shown = nights[-MOST_DRAWN:]

    def draw(figure: "Figure") -> None:
        axis = _axis(figure, shown)
        below = [0] * len(shown)
        for kind, colour in (("kept", _ACCENT), ("duplicates", _MUTED), ("quarantined", _WARN)):
            heights = [sum(night.counts.get(name, 0) for name in ROWS[kind]) for night in shown]
            axis.bar(range(len(shown)), heights, 0.7, below, color=colour, label=_WORDS[language][kind])
            below = [low + height for low, height in zip(below, heights, strict=True)]
        axis.grid(axis="y", color=_LINE, linewidth=0.5)
        axis.set_axisbelow(True)
        _legend(axis)

    return _svg(draw)


def _axis(figure: "Figure", shown: Sequence[Night]) -> Any:
    """A column for each night, at most seven of them with their date."""
    axis = figure.add_axes((0.11, 0.14, 0.86, 0.7))
    ticks = range(0, len(shown), max(1, -(-len(shown) // 7)))
    axis.set_xticks(ticks, [shown[at].at[5:10] for at in ticks])
    axis.set_xlim(-0.6, max(len(shown) - 0.4, 0.6))
    axis.locator_params(axis="y", nbins=5)
    return axis


def _legend(axis: Any) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)


def _svg(draw: Callable[["Figure"], None]) -> str:
    """An SVG of its own that is light or dark, as its reader is."""
    import matplotlib
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with _drawing, matplotlib.rc_context(_STYLE | {"svg.hashsalt": "operations"}), warnings.catch_warnings():
        # The browser has the fonts for Chinese; matplotlib only measures with its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(460 / 72, 200 / 72))
        draw(figure)
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = drawn.getvalue()
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg[svg.index("<svg ") :])
    for colour, page_colour in _COLOURS.items():
        svg = svg.replace(f": {colour}", f": {page_colour}")
    style = "<style>svg { color-scheme: light dark; font-family: system-ui, sans-serif; }</style>"
    return svg.replace(">", f">{style}", 1)
