"""Requests drawn from the service's own OpenAPI, sensible and not, and what it answers to them.

    python -m benchmarks.fuzz --work DIR [--cases 10000]

Schemathesis draws them; the service runs as users start it, before the stub engine. Looked for: statuses that the
OpenAPI does not name, bodies and content types other than it says, and errors in another shape than OpenAI's.
"""

import argparse
import contextlib
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks.faults import is_openai_error
from benchmarks.load import KEY, assistant, make_home, stub
from benchmarks.retrieval import Row, table
from retrieval.errors import SupportError

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
TIMEOUT_S = 30
SHOWN = 10


@dataclass
class Findings:
    """What was asked, and what was wrong with the answers."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    """By operation, status and what it is."""
    examples: dict[str, str] = field(default_factory=dict)
    """One request for each of these, as a curl command."""

    def add(self, what: str, case: Any) -> None:
        self.wrong[what] += 1
        self.examples.setdefault(what, case.as_curl_command())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models, indexes and logs go")
    parser.add_argument("--cases", type=int, default=10_000, help="at least so many (default: 10000)")
    options = parser.parse_args()
    try:
        home = make_home(options.work, passages=100)
        with stub(options.work, chunks=5) as engine, assistant(home, engine.url) as ours:
            found = fuzz(ours.url, options.cases)
    except SupportError as error:
        sys.exit(f"benchmarks.fuzz: {error}")
    for what, times in found.wrong.most_common(SHOWN):
        print(f"{times:,} × {what}\n    {found.examples[what][:500]}\n")
    unnamed = sum(times for what, times in found.wrong.items() if "status" in what)
    misshapen = sum(times for what, times in found.wrong.items() if "OpenAI" in what)
    others = found.wrong.total() - unnamed - misshapen
    statuses = ", ".join(f"{status}: {times:,}" for status, times in sorted(found.statuses.items()))
    print(
        table(
            [
                Row("requests drawn from the OpenAPI", found.cases, statuses),
                Row("  with a status that it does not name", found.cases, f"{unnamed:,}", "0", unnamed == 0),
                Row("  with an error not in OpenAI's shape", found.cases, f"{misshapen:,}", "0", misshapen == 0),
                Row("  whose answer is otherwise not as it says", found.cases, f"{others:,}", "0", others == 0),
            ]
        )
    )


def fuzz(url: str, cases: int) -> Findings:
    """At least `cases` requests, spread over the operations, half of them as the schema says and half against it."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    found = Findings()
    session = requests.Session()
    each = -(-cases // (2 * len(operations)))
    while found.cases < cases:  # of an operation without parameters there are few
        before = found.cases
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _try(operation, mode, each, session, found)
        if found.cases == before:
            break
    return found


def _try(operation: Any, mode: GenerationMode, count: int, session: requests.Session, found: Findings) -> None:
    """Ask as `operation` can be asked; nothing is raised, so that one fault does not hide the others."""

    @seed(found.cases)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def try_one(case: Any) -> None:
        found.cases += 1
        try:
            headers = {"Authorization": f"Bearer {KEY}"}
            response = case.call(session=session, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            found.add(f"{operation.label}: no answer, status 0 ({type(error).__name__})", case)
            return
        found.statuses[response.status_code] += 1
        place = f"{operation.label} {response.status_code}"
        if response.status_code >= 400 and not is_openai_error(response.text):
            found.add(f"{place}: the error is not in OpenAI's shape: {response.text[:200]}", case)
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                found.add(f"{place}: {getattr(failure, 'title', type(failure).__name__)}", case)

    with contextlib.suppress(Unsatisfiable):  # what has no parameters cannot be asked against its schema
        try_one()


if __name__ == "__main__":
    main()
