"""What LoRA adds to RAG on real text: the help of BTCPay Server and Gumroad, their FAQ, and what was held out of it.

    python -m benchmarks.real_text prepare --data DIR --work DIR     writes knowledge/, faq.jsonl, cases.jsonl
    python -m benchmarks.real_text train --work DIR [--minutes M]    index and adapter, in WORK/home
    python -m benchmarks.real_text ask --work DIR                    serves them, and runs `assistant evaluate ab`

The knowledge base is BTCPay's documentation without its FAQ, and Gumroad's articles without their sections that are
headed by a question. Those sections and BTCPay's FAQ are the pairs: 40% of them are the cases, and the others the
logs, without those that ask the same as a case. So a held-out answer may stand in no passage: whether to abstain is not
judged, and what decides is the meaning that answer and reference share.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assistant.client import get
from assistant.engine_process import free_port
from eval.cases import Case
from finetune.cleaning.duplicates import TWIN, plain, similarity
from retrieval.errors import SupportError

HEADING = re.compile(r"^#{2,4} +(.+\?) *$")
LEAST_CHARACTERS = 40
MOST_CHARACTERS = 1200
"""Of an answer: shorter ones say nothing, longer ones are pages."""
HELD_OUT = 0.4
WAIT_S = 600
"""For the service to start."""


@dataclass(frozen=True)
class Pair:
    question: str
    answer: str
    page: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "train", "ask"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder that holds kb/btcpay and kb/gumroad")
    parser.add_argument("--minutes", type=float, default=10, help="training time (default: 10)")
    options = parser.parse_args()
    work = options.work.resolve()
    if options.step == "prepare":
        prepare(options.data, work)
        return
    assistant, home = [sys.executable, "-m", "assistant.cli"], f"--home={work / 'home'}"
    if options.step == "train":
        subprocess.run([*assistant, "index", home, f"--knowledge={work / 'knowledge'}"], check=True)
        logs = [f"--logs={work / 'faq.jsonl'}", f"--cases={work / 'cases.jsonl'}", f"--minutes={options.minutes}"]
        subprocess.run([*assistant, "train", home, *logs], check=True)
    else:
        port = free_port()
        service = subprocess.Popen([*assistant, "serve", home, f"--port={port}"])
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url)
            ask = ["evaluate", "ab", home, f"--url={url}", f"--cases={work / 'cases.jsonl'}"]
            subprocess.run([*assistant, *ask, "--arms=rag,rag+lora,base,lora", "--primary=similarity"], check=True)
        finally:
            service.terminate()
            service.wait()


def _wait_for(url: str) -> None:
    for _ in range(WAIT_S):
        try:
            get(url, "/readyz")
            return
        except SupportError:
            time.sleep(1)
    raise SystemExit(f"nothing answers at {url} after {WAIT_S} s")


def prepare(data: Path, work: Path) -> None:
    """Write the knowledge base, the logs and the cases."""
    shutil.rmtree(work / "knowledge", ignore_errors=True)
    pairs = list(_btcpay(data / "kb/btcpay", work / "knowledge/btcpay"))
    pairs += _gumroad(data / "kb/gumroad", work / "knowledge/gumroad")
    pairs = [pair for pair in pairs if "?" in pair.question]
    held = set(random.Random(7).sample(range(len(pairs)), int(HELD_OUT * len(pairs))))
    asked = [plain(pair.question) for pair in pairs]
    logs = [
        _log(pair)
        for number, pair in enumerate(pairs)
        if number not in held and all(similarity(asked[number], asked[other]) < TWIN for other in held)
    ]
    cases = [_case(number, pair) for number, pair in enumerate(pairs) if number in held]
    (work / "faq.jsonl").write_text("".join(f"{line}\n" for line in logs), encoding="utf-8")
    (work / "cases.jsonl").write_text("".join(f"{line}\n" for line in cases), encoding="utf-8")
    print(f"{len(logs)} pairs to train on, {len(cases)} others to ask, of {len({p.page for p in pairs})} pages")


def _btcpay(source: Path, knowledge: Path) -> Iterator[Pair]:
    shutil.copytree(source / "docs", knowledge, ignore=shutil.ignore_patterns("FAQ"))
    for line in (source / "faq_qa.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        if LEAST_CHARACTERS <= len(pair["a"]) <= MOST_CHARACTERS:
            yield Pair(pair["q"], pair["a"], pair["file"])


def _gumroad(source: Path, knowledge: Path) -> Iterator[Pair]:
    """The sections headed by questions, which are left out of the articles."""
    knowledge.mkdir(parents=True)
    for path in sorted((source / "docs").glob("*.md")):
        kept: list[str] = []
        question, answer = "", list[str]()
        for line in [*path.read_text(encoding="utf-8").splitlines(), "#"]:
            if line.startswith("#"):
                text = "\n".join(answer).strip()
                if question and LEAST_CHARACTERS <= len(text) <= MOST_CHARACTERS:
                    yield Pair(question, text, f"gumroad/{path.name}")
                elif question:
                    kept += [f"## {question}", *answer]
                heading = HEADING.match(line)
                question, answer = (heading[1], []) if heading else ("", [])
                if heading:
                    continue
            (answer if question else kept).append(line)
        (knowledge / path.name).write_text("\n".join(kept[:-1]) + "\n", encoding="utf-8")


def _log(pair: Pair) -> str:
    said = [{"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}]
    return json.dumps({"messages": said}, ensure_ascii=False)


def _case(number: int, pair: Pair) -> str:
    source = "gumroad" if pair.page.startswith("gumroad/") else "btcpay"
    case = Case(
        id=f"{source}/{number}",
        query=pair.question,
        lang="en",
        reference=pair.answer,
        answerable=None,
        topic=source,
        group=pair.page,
    )
    return case.model_dump_json(exclude_defaults=True)


if __name__ == "__main__":
    main()
