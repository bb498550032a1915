"""The evaluation's report: a page for readers, JSON for programs, Markdown for a repository, text for the terminal.

results → view.py: rows and cells in each language, plots.py: SVG → page.html.j2, report.md.j2
results → terminal.py
"""

import base64
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import jinja2
from pydantic import TypeAdapter, ValidationError

from assistant.redaction import Redactor
from eval.report import wording
from eval.report.terminal import as_text
from eval.report.view import view
from eval.results import Example, Results, Shown
from retrieval.errors import InputError
from retrieval.files import write_text
from retrieval.language import Language

__all__ = ["as_text", "read", "write"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


def write(results: Results, folder: Path) -> Path:
    """Write `report.json`, `report.md` and `report.html`, and return the last; each is written whole or not at all.

    What customers and arms said is redacted once more: a report is passed on.

    Raises:
        StorageError: The disk refused.
    """
    results = replace(
        results,
        best=[_redacted(example) for example in results.best],
        worst=[_redacted(example) for example in results.worst],
    )
    views = [view(results, language) for language in LANGUAGES]
    style, script = ((wording.FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    templates = _templates()
    page = templates.get_template("page.html.j2").render(
        results=results, views=views, style=style, script=script, script_digest=digest
    )
    write_text(folder / "report.md", templates.get_template("report.md.j2").render(results=results, views=views))
    write_text(folder / "report.html", page)
    # Last: who finds it takes the report for written.
    write_text(folder / "report.json", json.dumps(asdict(results), ensure_ascii=False, indent=1) + "\n")
    return folder / "report.html"


def read(folder: Path) -> Results:
    """The results that `write` left in `folder`.

    Raises:
        InputError: `report.json` cannot be read, or is no report.
    """
    path = folder / "report.json"
    try:
        return TypeAdapter(Results).validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"report {path} cannot be read: {error.strerror}; evaluate first") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"report {path}: {where}: {first['msg']}; evaluate again to have it written anew") from error


def _redacted(example: Example) -> Example:
    """`example` without personal data; one redactor, so that its placeholders stand for the same throughout."""
    redact = Redactor()
    asked = redact.conversation([message["content"] for message in example.asked])
    return replace(
        example,
        asked=[message | {"content": text} for message, text in zip(example.asked, asked, strict=True)],
        reference=redact(example.reference) if example.reference else example.reference,
        answers={
            arm: Shown(
                redact(shown.text),
                shown.route,
                shown.scores,
                {name: redact(evidence) for name, evidence in shown.evidence.items()},
            )
            for arm, shown in example.answers.items()
        },
    )


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(wording.FOLDER),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
