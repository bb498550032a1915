"""Cases asked through the running service, as its customers ask; what was answered before is not asked again."""

import json
import math
import random
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assistant.client import get, patiently, post, stream
from assistant.redaction import Redactor
from eval.answers import Answer, Cost, Shown, read_answers, written
from eval.cases import Case
from eval.metrics import Score
from retrieval.errors import EngineError, InputError, SupportError
from retrieval.files import alone, content_id

ARMS = ("rag", "rag+lora", "base", "lora", "quoted")
CONCURRENCY = 8
BLOCK = 4 * CONCURRENCY
"""Cases asked of one arm before it is the next one's turn: whatever slows the machine for a while slows all of them."""
SEED = 7
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
    depend on: base, index, prompt, settings and code of the service; and the adapter, where it answers.
    """

    def __init__(
        self, url: str, kept: Path, key: str | None = None, max_tokens: int | None = None, run: str | None = None
    ) -> None:
        """`kept` is the folder of earlier answers; services that are asked in turns share a `run`.

        Raises:
            InputError: `url` is no address, or not one of an assistant.
            SupportError: The service cannot be reached, or does not serve.
        """
        self.url, self.kept, self._key = url, kept, key
        self.parts: dict[str, Any] = _parts(url, key)
        """What serves: release, adapter, index, base, the ids of the prompts by name, and `answers_by`."""
        self.memory_bytes: int | None = None
        """Most that service and engine held between two blocks; None where the key may not see it."""
        self._fields = {"seed": SEED, "temperature": 0.0} | ({"max_tokens": max_tokens} if max_tokens else {})
        self._run = run or uuid.uuid4().hex[:12]
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
            InputError: A way is unknown, or another release went live meanwhile.
            SupportError: The service went away.
        """
        for way in ways:
            self.check(way)
        asked = Asked()
        shuffled = random.Random(SEED).sample(list(cases), len(cases))
        bar: tqdm[Any] = tqdm(total=len(cases) * len(ways), desc="asking", unit="answer", disable=not progress)
        with alone(self.kept), bar, ThreadPoolExecutor(CONCURRENCY) as pool:
            before = {way: self._before(way) for way in ways}
            for turn, start in enumerate(range(0, len(shuffled), BLOCK)):
                block = shuffled[start : start + BLOCK]
                for way in ways if turn % 2 == 0 else reversed(ways):
                    known = {case.id: before[way][key] for case in block if (key := _key(case)) in before[way]}
                    asked.answers += [replace(answer, case=case, arm=way) for case, answer in known.items()]
                    bar.update(len(known))
                    if new := [case for case in block if case.id not in known]:
                        self._ask_block(new, way, asked, pool, bar)
        return asked

    def perplexity(self, case: Case, way: str) -> Score:
        """How surprising the reference is to a way to answer; no value where no model would answer, or it failed."""
        if not case.reference:
            return Score(None)
        body = {"model": f"assistant:{way}", "messages": case.conversation(), "answer": case.reference}
        try:
            told = patiently(lambda: post(self.url, "/v1/likelihood", self._key, body))
        except SupportError as error:
            return Score(None, str(error))
        return Score(math.exp(-told["log_probability"] / told["tokens"]) if told["tokens"] else None)

    def _ask_block(
        self, block: Sequence[Case], way: str, asked: Asked, pool: ThreadPoolExecutor, bar: "tqdm[Any]"
    ) -> None:
        """Ask the cases at once; CPU time is divided evenly among them, since they shared every step of the engine."""
        before_s = self._cpu_s()
        jobs = {pool.submit(patiently, partial(self._answer, case, way)): case for case in block}
        answered: list[tuple[Case, Answer]] = []
        for job in as_completed(jobs):
            bar.update()
            case = jobs[job]
            try:
                answered.append((case, job.result()))
                self._keep(*answered[-1])
            except ReleaseChanged:
                raise
            except SupportError as error:
                asked.failed[case.id, way] = str(error)
        after_s = self._cpu_s()
        if not answered:
            get(self.url, "/readyz", self._key)  # raises if it is gone
        for case, answer in answered:
            if before_s is not None and after_s is not None:
                answer = replace(answer, cost=replace(answer.cost, cpu_s=(after_s - before_s) / len(answered)))
                self._keep(case, answer)
            asked.answers.append(answer)

    def _answer(self, case: Case, way: str) -> Answer:
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
        total_s = time.perf_counter() - started
        if extension is None:
            raise EngineError("the answer broke off before its end")
        if extension["degraded"]:
            raise EngineError(f"answered without {' and '.join(extension['degraded'])}, which failed")
        served = {name: extension[name] for name in ("adapter", "index")}
        if served != {name: self.parts[name] for name in served}:
            raise ReleaseChanged(f"{self.url} serves another release by now: {served}; start again to compare it")
        tokens = usage.get("completion_tokens", 0)
        between = (last - started - first) / (tokens - 1) if first and tokens > 1 else None
        redactor = Redactor()
        return Answer(
            case=case.id,
            arm=way,
            text=redactor(text),
            route=extension["route"],
            citations=tuple(extension["citations"]),
            passages=tuple(self._shown(each) for each in extension["passages"]),
            leaked=tuple(sorted(redactor.counts)),
            cost=Cost(first, total_s, between, usage.get("prompt_tokens", 0), tokens, run=self._run),
            extension=extension,
        )

    def _shown(self, passage: dict[str, Any]) -> Shown:
        path = passage["path"]
        if path not in self._articles:
            article = json.loads(get(self.url, f"/v1/articles/{urllib.parse.quote(path)}", self._key))
            self._articles[path] = article["text"]
        text = self._articles[path][passage["start"] : passage["end"]]
        return Shown(path, passage["heading"], text)

    def _cpu_s(self) -> float | None:
        """CPU seconds of service and engine so far; None where the key may not see them. Their memory is noted."""
        try:
            found = dict(_USED.findall(get(self.url, "/metrics", self._key).decode()))
        except SupportError:
            return None
        cpu_s, memory = (float(found.get(name, "nan")) for name in ("cpu_seconds", "memory_bytes"))
        if math.isnan(cpu_s) or math.isnan(memory):
            return None
        self.memory_bytes = max(self.memory_bytes or 0, int(memory))
        return cpu_s

    def _file(self, way: str) -> Path:
        arm, _, name = way.partition("@")
        parts = self.parts
        depends = [arm, parts["base"], parts["index"], parts["prompts"][name or "plain"], parts["answers_by"]]
        if "lora" in arm:
            depends.append(parts["adapter"])
        return self.kept / f"{content_id(*depends, json.dumps(self._fields))}.jsonl"

    def _before(self, way: str) -> dict[str, Answer]:
        """Earlier answers of the way, by the case's conversation, which stands where else its id does."""
        path = self._file(way)
        if not path.exists():
            return {}
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # a crash may have cut off the last line
        return {answer.case: answer for answer in read_answers(path)}

    def _keep(self, case: Case, answer: Answer) -> None:
        """Of two lines about a case the later one holds: it also knows the CPU time."""
        with self._writing, self._file(answer.arm).open("a", encoding="utf-8") as file:
            file.write(written([replace(answer, case=_key(case))]))


def _parts(url: str, key: str | None) -> dict[str, Any]:
    try:
        parts = dict(json.loads(get(url, "/readyz", key)))
        _ = [parts[name] for name in ("release", "adapter", "index", "base", "prompts", "answers_by")]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{url} is no assistant; give the address of one by --url") from None
    return parts


class ReleaseChanged(InputError):
    """The service answered by other parts than those that the evaluation began with."""


def _key(case: Case) -> str:
    return content_id(json.dumps(case.conversation()))
