"""Two running services on the same cases: adapters trained in different ways, engines, versions.

    python -m benchmarks.two_services --cases FILE --work DIR "bare pairs=http://127.0.0.1:8101" "as served=http://…:8102"

The first is what the second is compared to; each is asked as customers are, in the arm `rag+lora`. The report is
written under DIR, and what was asked before is not asked again.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from eval import report
from eval.ab import scored
from eval.asking import Asker
from eval.cases import read_cases
from eval.summary import summary
from retrieval.files import sha256

WAY = "rag+lora"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="cases drawn with a fixed seed")
    parser.add_argument("--lang", help="only cases in this language")
    parser.add_argument("services", nargs=2, metavar="NAME=URL")
    options = parser.parse_args()
    cases = read_cases(options.cases, options.lang, options.limit)
    by_name, failed, parts = {}, [], {}
    for service in options.services:
        name, _, url = service.partition("=")
        asker = Asker(url, options.work / "asked")
        asked = asker.ask(cases, [WAY])
        by_name[name] = scored(cases, asked.of(WAY))
        failed += [(case, name) for case, _ in asked.failed]
        parts[name] = asker.parts
    results = summary(
        "two-services",
        datetime.now(UTC).isoformat(timespec="seconds"),
        cases,
        by_name,
        {},
        failed=failed,
        files={options.cases.name: sha256(options.cases)},
        lineage=parts,
    )
    options.work.mkdir(parents=True, exist_ok=True)
    print(report.as_text(results))
    print(f"the report: {report.write(results, options.work)}")


if __name__ == "__main__":
    main()
