"""Cases asked through the running service, as its customers ask; what was answered before is not asked again."""

import json
import math
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assistant.client import get, post, stream
from eval.answers import Answer, Cost, Shown, read_answers, written
from eval.cases import Case
from retrieval.errors import EngineError, InputError, Overloaded, SupportError
from retrieval.files import content_id

ARMS = ("rag", "rag+lora", "base", "lora", "quoted")
CONCURRENCY = 8
BLOCK = 4 * CONCURRENCY
"""Cases asked of one arm before it is the next one's turn: whatever slows the machine for a while slows all of them."""
SEED = 7
_ATTEMPTS = 5
_USED = re.compile(r"^assistant_processes_(cpu_seconds|memory_bytes) (\S+)$", re.MULTILINE)


@dataclass
class Asked:
    """What several ways to answer said to the same cases."""

    answers: list[Answer] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    """By case and way: why there is no answer."""

    def of(self, way: str) -> dict[str, Answer]:
        """The answers of a way, by case."""
        return {answer.case: answer for answer in self.answers if answer.arm == way}


class Asker:
    """A running service, and what it answered before.

    A way to answer is an arm, alone (`rag`) or with a prompt (`rag@three-examples`). Answers are kept by what they
    depend on: base, index, prompt and seed; and the adapter, where it answers.
    """

    def __init__(self, url: str, kept: Path, key: str | None = None, max_tokens: int | None = None) -> None:
        """`kept` is the folder of earlier answers.

        Raises:
            InputError: `url` is no address.
            SupportError: The service cannot be reached, or does not serve.
        """
        self.url, self.kept, self._key = url, kept, key
        self.parts: dict[str, Any] = json.loads(get(url, "/readyz", key))
        """What serves: release, adapter, index, base, and the ids of the prompts by name."""
        self._fields = {"seed": SEED, "temperature": 0.0} | ({"max_tokens": max_tokens} if max_tokens else {})
        self._articles: dict[str, str] = {}
        self._writing = threading.Lock()

    def check(self, way: str) -> None:
        """
        Raises:
            InputError: The service has no such way to answer.
        """
        arm, _, name = way.partition("@")
        if arm not in ARMS:
            raise InputError(f"unknown arm {arm!r}; the arms are {', '.join(ARMS)}")
        if name and name not in self.parts["prompts"]:
            known = ", ".join(self.parts["prompts"])
            raise InputError(f"the service at {self.url} has no prompt {name!r}; it has {known}")

    def ask(self, cases: Sequence[Case], ways: Sequence[str], progress: bool = True) -> Asked:
        """Ask every case in every way; the ways take turns, and cases that are refused are counted, not raised.

        Raises:
            InputError: A way is unknown.
            EngineError: The service went away.
        """
        for way in ways:
            self.check(way)
        asked = Asked()
        shuffled = random.Random(SEED).sample(list(cases), len(cases))
        before = {way: self._before(way) for way in ways}
        bar: tqdm[Any] = tqdm(total=len(cases) * len(ways), desc="asking", unit="answer", disable=not progress)
        with bar, ThreadPoolExecutor(CONCURRENCY) as pool:
            for start in range(0, len(shuffled), BLOCK):
                for way in ways:
                    block = shuffled[start : start + BLOCK]
                    known = [before[way][key] for case in block if (key := _key(case)) in before[way]]
                    asked.answers += [replace(answer, case=case) for case, answer in self._known(block, before[way])]
                    bar.update(len(known))
                    new = [case for case in block if _key(case) not in before[way]]
                    if new:
                        self._ask_block(new, way, asked, pool, bar)
        return asked

    def perplexity(self, case: Case, way: str) -> float | None:
        """How surprising the reference is to a way to answer; None without one, or where no model would answer.

        Raises:
            EngineError: The service, or an engine that is not vLLM, gives no such thing; it also needs an admin's key.
        """
        if not case.reference:
            return None
        body = {"model": f"assistant:{way}", "messages": case.conversation(), "answer": case.reference}
        told = post(self.url, "/v1/likelihood", self._key, body)
        return math.exp(-told["log_probability"] / told["tokens"]) if told["tokens"] else None

    def _known(self, block: Sequence[Case], before: dict[str, Answer]) -> Iterator[tuple[str, Answer]]:
        for case in block:
            if _key(case) in before:
                yield case.id, before[_key(case)]

    def _ask_block(
        self, block: Sequence[Case], way: str, asked: Asked, pool: ThreadPoolExecutor, bar: "tqdm[Any]"
    ) -> None:
        """Ask the cases at once; CPU time is divided evenly among them, since they shared every step of the engine."""
        cpu_before, _ = self._used()
        jobs = {pool.submit(self._answer, case, way): case for case in block}
        answered: list[tuple[Case, Answer]] = []
        for job in as_completed(jobs):
            bar.update()
            try:
                answered.append((jobs[job], job.result()))
            except SupportError as error:
                asked.failed[jobs[job].id, way] = str(error)
        if not answered:
            raise EngineError(f"none of {len(block)} cases was answered: {next(iter(asked.failed.values()))}")
        cpu_after, memory = self._used()
        for case, answer in answered:
            cpu_s = (
                (cpu_after - cpu_before) / len(answered) if cpu_after is not None and cpu_before is not None else None
            )
            whole = replace(answer, cost=replace(answer.cost, cpu_s=cpu_s, memory_bytes=memory))
            asked.answers.append(whole)
            self._keep(case, whole)

    def _answer(self, case: Case, way: str) -> Answer:
        for attempt in range(_ATTEMPTS):
            try:
                return self._streamed(case, way)
            except Overloaded as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(error.retry_after_s)
        raise AssertionError("the last attempt returns or raises")

    def _streamed(self, case: Case, way: str) -> Answer:
        started = time.perf_counter()
        text, first, last = "", None, started
        extension: dict[str, Any] | None = None
        usage: dict[str, int] = {}
        for chunk in stream(
            self.url,
            f"assistant:{way}",
            case.conversation(),
            self._key,
            stream_options={"include_usage": True},
            **self._fields,
        ):
            for choice in chunk["choices"]:
                if piece := choice["delta"].get("content"):
                    last = time.perf_counter()
                    first = first or last - started
                    text += piece
            extension = chunk.get("assistant", extension)
            usage = chunk.get("usage") or usage
        if extension is None:
            raise EngineError("the answer broke off before its end")
        tokens = usage.get("completion_tokens", 0)
        between = (last - started - first) / (tokens - 1) if first and tokens > 1 else None
        return Answer(
            case=case.id,
            arm=way,
            text=text,
            route=extension["route"],
            citations=tuple(extension["citations"]),
            passages=tuple(self._shown(each) for each in extension["passages"]),
            cost=Cost(first, time.perf_counter() - started, between, usage.get("prompt_tokens", 0), tokens),
            extension=extension,
        )

    def _shown(self, passage: dict[str, Any]) -> Shown:
        path = passage["path"]
        if path not in self._articles:
            article = json.loads(get(self.url, f"/v1/articles/{urllib.parse.quote(path)}", self._key))
            self._articles[path] = article["text"]
        text = self._articles[path][passage["start"] : passage["end"]]
        return Shown(path, passage["heading"], text)

    def _used(self) -> tuple[float | None, int | None]:
        """CPU seconds so far and memory of service and engine; None where the key may not see them."""
        try:
            found = dict(_USED.findall(get(self.url, "/metrics", self._key).decode()))
            return float(found["cpu_seconds"]), int(float(found["memory_bytes"]))
        except (SupportError, KeyError):
            return None, None

    def _file(self, way: str) -> Path:
        arm, _, name = way.partition("@")
        parts = self.parts
        depends = [arm, parts["base"], parts["index"], parts["prompts"][name or "plain"], json.dumps(self._fields)]
        if "lora" in arm:
            depends.append(parts["adapter"])
        return self.kept / f"{content_id(*depends)}.jsonl"

    def _before(self, way: str) -> dict[str, Answer]:
        """Earlier answers of the way, by the case's conversation, which stands where else its id does."""
        path = self._file(way)
        if not path.exists():
            return {}
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # a crash may have cut off the last line
        return {answer.case: answer for answer in read_answers(path)}

    def _keep(self, case: Case, answer: Answer) -> None:
        path = self._file(answer.arm)
        with self._writing:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(written([replace(answer, case=_key(case))]))


def _key(case: Case) -> str:
    return content_id(json.dumps(case.conversation()))
