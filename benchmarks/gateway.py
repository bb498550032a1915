"""What the chat service costs beside the engine: ratios of one run, in turns, beside what they should reach.

    python -m benchmarks.gateway --work DIR [--only cpu|ttft|throughput|prefix] [--engine-url URL --adapter NAME]

Engine, service and load are three processes. Without `--engine-url` the engine is benchmarks/stub_engine.py. Figures
are medians over rounds; in brackets stand the lowest and the highest round. `prefix` needs a real engine.

`cpu` compares with the least that a gateway can do: a FastAPI route that passes bytes on with httpx, unread.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from tqdm import tqdm

from assistant import prompt, releases
from assistant.engine_process import free_port
from assistant.prompt import Message
from assistant.redaction import redact_article
from benchmarks.retrieval import Row, table
from retrieval.build import build
from retrieval.embedded_encoder import NAME
from retrieval.encoder import Encoder
from retrieval.errors import EngineError, SupportError

ROOT = Path(__file__).parent.parent
ADAPTERS = ("stub-adapter-a", "stub-adapter-b")
KEY = "sk-benchmark"
CONCURRENCY = 16
"""Requests at once, but for TTFT."""
RATE = 50.0
CONVERSATIONS = 24
"""With a real engine, which takes seconds for each."""
"""Requests a second while TTFT is measured."""
WHOLE = 9
"""Messages of a conversation."""
TTFT_TOKENS = 16
"""Length of an answer then: what is measured is its start."""
START_S = 300
SEED = 7

TURNS = (
    (
        "Hello, this is Maria Schneider. I paid order A{n}-2291 with my card 4111 1111 1111 1111 on 3 November and the "
        "shop says that it never got the money. My e-mail is maria.schneider@example.com and my phone number is "
        "+49 151 23456789. Can you tell me where the payment is, and how long I have until I must ask for it back? I "
        "looked at the page about refunds, but it names two limits and I do not know which of them is mine.",
        "Thank you for writing to us. A payment by card shows as Completed on the day it was made. If the shop does "
        "not see it, please send it the receipt from Me > Payments. You can request a refund within 180 days of the "
        "payment date if you paid from your balance or by card, and within 90 days if you paid by bank transfer. The "
        "merchant has 7 days to accept or decline, and if it does not answer we decide within 5 days.",
    ),
    (
        "您好，我叫王建国，身份证号 11010519491231002X，手机号 13800138000。"
        "昨天我从银行卡 6222 0212 3456 7890 128 转了一笔钱，到现在还没有到账，订单号是 {n}88123。"
        "客服说要等三个工作日，可是我今天就要用这笔钱，请帮我查一下是什么原因，"
        "如果退回来手续费会不会一起退？另外我的邮箱换成了 wangjianguo@example.cn，以后的通知请发到这个邮箱。",
        "您好，转账一般在一个工作日内到账，遇到节假日会顺延。如果银行退回，款项会在 3 到 5 个工作日内回到您的余额，"
        "手续费会一起退还。您可以在「我的 > 付款」里打开这笔转账查看进度，也可以在那里下载回单交给银行核对。",
    ),
    (
        "The transfer to IBAN DE89 3704 0044 0532 0130 00 was returned as well, and now I see a fee of 2.50 EUR that "
        "nobody told me about. I also changed my address last month; is that why? My card's security code is 123 if "
        "you need it to look the payment up, and the second phone number on the account is (415) 555-0132. Please do "
        "not ask me to call again, I have waited for forty minutes twice this week and was cut off both times.",
        "Please never send a security code to anybody, not even to us. A transfer is returned when the name of the "
        "account does not match the name at the bank. The fee of 2.50 EUR is returned with the payment. You can change "
        "your address under Me > Account > Address; it does not affect transfers that were sent before.",
    ),
    (
        "还有一件事：我太太李晓梅（手机 139-0013-9000）上周用她的信用卡 5500 0055 5555 5559 付了同一个订单，"
        "结果扣了两次，每次 368.50 元。商家说只收到一笔，银行说两笔都已经付出去了。"
        "我们把两张账单的截图都发给了商家，可是三天过去了还没有回复。"
        "请问重复扣款应该找谁，要准备哪些材料，多久可以退回来？如果超过期限商家一直不理我们，你们会不会直接退款？"
        "另外，退款会退到原来的卡上，还是退到余额里？她的那张卡下个月就要到期换新卡了。",
        "重复扣款通常是因为第一次付款超时后又付了一次。请在「我的 > 付款」里分别打开这两笔付款，"
        "对其中一笔点「申请退款」，原因选「重复扣款」，并上传两张账单的截图。"
        "商家有 7 天时间处理，没有回复的话会自动转给我们，我们会在 5 天内决定。"
        "退款会退回原来的卡；如果卡已经换了新卡，银行会把款项转到新卡上，一般需要 3 到 10 个工作日。",
    ),
)
QUESTIONS = (
    "So how many days do I still have to request a refund for order A{n}?",
    "那么订单 {n} 的退款什么时候可以到账？",
)
_PRODUCTS = "wallet,card,transfer,invoice,checkout,payout,subscription,terminal,deposit,exchange".split(",")
_PLACES = (
    "Germany,France,Spain,Italy,Poland,Austria,Ireland,Portugal,Greece,Finland,Norway,Sweden,Denmark,Belgium,Hungary,"
    "Romania,Bulgaria,Croatia,Estonia,Latvia"
).split(",")
_TOPICS = "refunds,fees,limits,delivery times,documents,closing,disputes,statements,currencies,notifications".split(",")
_CHINESE = dict(
    zip(_TOPICS, "退款 手续费 限额 到账时间 证件 销户 争议 对账单 币种 通知".split(), strict=True),
)


@dataclass(frozen=True)
class Home:
    """An ASSISTANT_HOME that serves: a real index, and adapters that only the stub engine can load."""

    folder: Path
    base: str
    passages: int


@dataclass(frozen=True)
class Running:
    """A started process, and where it answers."""

    url: str
    process: psutil.Process

    @property
    def cpu_s(self) -> float:
        """User and system time that it took so far; its children are not counted."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    @property
    def memory_mib(self) -> float:
        return float(self.process.memory_info().rss / 2**20)


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    """0: no reply at all."""
    started: float
    """Seconds of a monotonic clock."""
    first_s: float
    """Until the first text; the whole time where there was none."""
    total_s: float
    text: str = ""
    ended: bool = False
    """A stream had its [DONE], a JSON reply its last byte."""
    extension: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    """Of a stream that was asked for it."""
    """Of an error."""
    retry_after: str | None = None


@dataclass(frozen=True)
class _Arm:
    """Whom to ask, what, and how often."""

    name: str
    url: str
    model: str
    messages: int
    """The last so many of a conversation."""
    rate: float
    """Requests a second."""
    at_most_ms: float | None


Ask = Callable[[int], Awaitable[Answer]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where models, indexes and logs go")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part (may be repeated)")
    parser.add_argument("--engine-url", help="a real engine, for throughput and prefix")
    parser.add_argument("--adapter", default=ADAPTERS[0], help="the name of an adapter that it serves")
    parser.add_argument("--requests", type=int, default=400, help="of a round of cpu and throughput (default: 400)")
    parser.add_argument("--seconds", type=float, default=20, help="of a round of ttft (default: 20)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=10_000, help="that are searched (default: 10000)")
    parser.add_argument("--interval-ms", type=float, default=5, help="between the stub's pieces (default: 5)")
    parser.add_argument("--pass-through", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pass_through:
        _pass_through(options.pass_through, options.port)
        return
    if options.work is None:
        parser.error("--work is required")
    names = options.only or [name for name in PARTS if name != "prefix" or options.engine_url]
    try:
        for name in names:
            print(table(list(PARTS[name](options))), flush=True)
    except SupportError as error:
        sys.exit(f"benchmarks.gateway: {error}")


def _pass_through(engine_url: str, port: int) -> None:
    """Serve what a gateway costs at least."""
    import httpx
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import Response, StreamingResponse

    app, client = FastAPI(), httpx.AsyncClient(base_url=engine_url, timeout=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = client.build_request(
            "POST", "/v1/chat/completions", content=await request.body(), headers={"Content-Type": "application/json"}
        )
        reply = await client.send(asked, stream=True)
        return StreamingResponse(reply.aiter_raw(), reply.status_code, media_type=reply.headers["Content-Type"])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def cpu(options: argparse.Namespace) -> Iterator[Row]:
    """CPU time of a request in the service and in the pass-through, from the kernel's account of their processes."""
    home = make_home(options.work, passages=100)
    with stub(options.work, interval_ms=options.interval_ms) as engine, assistant(home, engine.url) as ours:
        command = [sys.executable, "-m", "benchmarks.gateway", "--pass-through", engine.url]
        with started(command, "/healthz", options.work / "pass-through.log") as least:
            for kind, stream in (("JSON", False), ("100-chunk stream", True)):
                ms: dict[str, list[float]] = {"ours": [], "least": []}
                for round_number in range(options.rounds + 1):
                    for name, server, model in (("ours", ours, "assistant:lora"), ("least", least, ADAPTERS[0])):
                        before = server.cpu_s
                        answers = asyncio.run(_closed(server.url, model, options.requests, stream))
                        _check(answers)
                        if round_number:  # the first warms both up
                            ms[name].append(1000 * (server.cpu_s - before) / options.requests)
                ratios = np.divide(ms["ours"], ms["least"])
                task = f"CPU, {kind} ({np.median(ms['ours']):.1f} / {np.median(ms['least']):.1f} ms)"
                yield ratio_row(task, len(ratios) * options.requests, ratios, at_most=1.0)


def ttft(options: argparse.Namespace) -> Iterator[Row]:
    """Time to the first text that the service adds, requests coming at random times whatever was answered before.

    A search with what was said before costs several times one with a question alone, so it is asked for less often.
    """
    home = make_home(options.work, options.passages)
    with stub(options.work, interval_ms=options.interval_ms) as engine, assistant(home, engine.url) as ours:
        searched = f"with retrieval of {home.passages:,} passages"
        arms = (
            _Arm("of the engine asked directly", engine.url, ADAPTERS[0], 1, RATE, None),
            _Arm("added without retrieval", ours.url, "assistant:lora", 1, RATE, 5.0),
            _Arm(f"added {searched}", ours.url, "assistant", 1, RATE, 25.0),
            _Arm("added in a 4 KB conversation, 5/s", ours.url, "assistant:lora", WHOLE, RATE / 10, 5.0),
            _Arm("added in it with retrieval, 5/s", ours.url, "assistant", WHOLE, RATE / 10, 25.0),
        )
        found: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
        for round_number in range(options.rounds):
            for arm in arms:
                answers = asyncio.run(_open(arm, options.seconds, round_number))
                p50, p99 = np.percentile([1000 * answer.first_s for answer in _check(answers)], [50, 99])
                found[arm.name].append((float(p50), float(p99)))
    direct = found[arms[0].name]
    for arm in arms:
        for column, what in enumerate(("p50", "p99")):
            ms = np.array(found[arm.name])[:, column]
            if arm.at_most_ms is None:
                yield Row(f"TTFT {arm.name}, {what}", len(ms), f"{np.median(ms):.1f} ms")
                continue
            added = ms - np.array(direct)[:, column]
            shown = f"{np.median(added):.1f} ms [{added.min():.1f} {added.max():.1f}]"
            met = bool(np.median(added) <= arm.at_most_ms)
            yield Row(f"TTFT {arm.name}, {what}", len(ms), shown, f"≤ {arm.at_most_ms:.0f} ms", met)


def throughput(options: argparse.Namespace) -> Iterator[Row]:
    """Answers a second, the same prompts through the service and straight to the engine."""
    home = make_home(options.work, 100, options.adapter)
    with contextlib.ExitStack() as stack:
        url = options.engine_url or stack.enter_context(stub(options.work, interval_ms=20, slots=CONCURRENCY)).url
        ours = stack.enter_context(assistant(home, url))
        ratios = []
        for round_number in range(options.rounds + 1):
            rates = []
            for server, model in ((ours.url, "assistant:lora"), (url, options.adapter)):
                began = time.perf_counter()
                answers = asyncio.run(_closed(server, model, options.requests, stream=True))
                rates.append(len(_check(answers)) / (time.perf_counter() - began))
            if round_number:
                ratios.append(rates[0] / rates[1])
        task = f"throughput of {'the engine' if options.engine_url else 'the stub'}, {CONCURRENCY} at once"
        yield ratio_row(task, len(ratios) * options.requests, ratios, at_least=0.97)


def prefix(options: argparse.Namespace) -> Iterator[Row]:
    """TTFT of first questions and of ones that follow, against the prompt tokens that the engine had not cached.

    A line fitted to the first questions, which are of several lengths, says what the later ones should take.
    """
    if options.engine_url is None:
        raise EngineError("prefix needs a real engine, which caches; give --engine-url and --adapter")
    home = make_home(options.work, 100, options.adapter)
    with assistant(home, options.engine_url) as ours:
        new: dict[str, list[int]] = {"cold": [], "warm": []}
        cached: dict[str, list[int]] = {"cold": [], "warm": []}
        times: dict[str, list[float]] = {"cold": [], "warm": []}
        streamed = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 24}
        for number in tqdm(range(CONVERSATIONS), desc="conversations"):
            words = TURNS[0][0].format(n=number).split()
            asked = [{"role": "user", "content": f"{number}: {' '.join(words[: 10 + 50 * (number % 4) // 3])}"}]
            for kind in times:
                answer = asyncio.run(_one(ours.url, body("assistant:lora", asked, **streamed)))
                _check([answer])
                had = answer.usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
                times[kind].append(1000 * answer.first_s)
                new[kind].append(answer.usage["prompt_tokens"] - had)
                cached[kind].append(had)
                asked = [*asked, {"role": "assistant", "content": answer.text}]
                asked.append({"role": "user", "content": "And how long does that take?"})
        slope, start = np.polyfit(new["cold"], times["cold"], 1)
        for kind, ms in times.items():
            tokens = f"{np.mean(new[kind]):.0f} new tokens, {np.mean(cached[kind]):.0f} cached"
            yield Row(f"TTFT {kind}, median ({tokens})", len(ms), f"{np.median(ms):.0f} ms")
        yield Row("  a new token takes", len(times["cold"]), f"{slope:.1f} ms, and each request {start:.0f} ms")
        ratios = np.divide(times["warm"], start + slope * np.array(new["warm"]))
        yield ratio_row("  warm against what the line says", len(ratios), ratios, at_most=1.15)


def ratio_row(
    task: str, n: int, ratios: Sequence[float] | Any, *, at_most: float | None = None, at_least: float | None = None
) -> Row:
    """The median of `ratios` with the lowest and the highest, beside a bound."""
    middle = float(np.median(ratios))
    shown = f"{middle:.2f}× [{min(ratios):.2f} {max(ratios):.2f}]"
    if at_most is not None:
        return Row(task, n, shown, f"≤ {at_most:.2f}×", middle <= at_most)
    if at_least is not None:
        return Row(task, n, shown, f"≥ {at_least:.2f}×", middle >= at_least)
    return Row(task, n, shown)


def conversation(number: int) -> list[dict[str, str]]:
    """About 4 KB of a support conversation in both languages, with personal data in it; no two are the same."""
    messages = []
    for asked, told in TURNS:
        messages.append({"role": "user", "content": asked.format(n=number)})
        messages.append({"role": "assistant", "content": told})
    return [*messages, {"role": "user", "content": QUESTIONS[number % len(QUESTIONS)].format(n=number)}]


def body(model: str, messages: Sequence[dict[str, str]], **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": list(messages), **more}


def make_home(work: Path, passages: int, *adapters: str) -> Home:
    """A home under `work` whose live release serves, with about so many passages; what is there is used again."""
    folder, base = work.resolve() / f"home-{passages}", work.resolve() / "base"
    adapters = adapters or ADAPTERS
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    knowledge = folder / "knowledge"
    for path, text in _articles(passages):
        if not (knowledge / path).exists():
            (knowledge / path).parent.mkdir(parents=True, exist_ok=True)
            (knowledge / path).write_text(text, encoding="utf-8")
    (work / "models").mkdir(parents=True, exist_ok=True)
    if not (folder / "models").exists():
        (folder / "models").symlink_to((work / "models").resolve())
    encoder = Encoder(NAME, work / "models")
    built = build([knowledge], folder / "indexes", encoder, redact_article, progress=True)
    for name in adapters:
        place = folder / "adapters" / name
        place.mkdir(parents=True, exist_ok=True)
        config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": str(base)}
        (place / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        record = {"base": str(base), "prompt": prompt.ID, "recipe": {"quantize": "none"}, "index": built.id}
        (place / "training.json").write_text(json.dumps(record), encoding="utf-8")
    keys = [f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"]
    tenant = {"name": "benchmark", "keys": keys, "requests_per_minute": 10**9, "admin": True}
    (folder / "keys.yaml").write_text(json.dumps({"tenants": [tenant]}), encoding="utf-8")  # JSON is YAML
    (folder / "keys.yaml").chmod(0o600)
    releases.publish(folder / "releases", index=built.id, adapter=adapters[0], base=str(base), prompt=prompt.ID)
    return Home(folder, str(base), built.passages)


def _articles(passages: int) -> Iterator[tuple[str, str]]:
    """So many articles of one passage each, by path, every fifth in Chinese."""
    chance = random.Random(SEED)
    for number in range(passages):
        product, place, topic = chance.choice(_PRODUCTS), chance.choice(_PLACES), chance.choice(_TOPICS)
        days, fee = chance.randint(2, 180), chance.randint(10, 990) / 100
        if number % 5 == 0:
            name, what = f"zh/{number}.md", _CHINESE[topic]
            yield (
                name,
                f"# {place} 的 {product} {what}（{number}）\n\n在 {place} 使用 {product} 时，{what}需要 {days} 天。"
                f"手续费是 {fee:.2f} EUR。请在「我的 > {product}」里提交申请，"
                f"客服会在 {days % 7 + 1} 个工作日内处理。\n",
            )
        else:
            yield (
                f"en/{number}.md",
                f"# {topic.capitalize()} for a {product} in {place} ({number})\n\nFor a {product} in {place}, {topic} "
                f"take {days} days. The fee is {fee:.2f} EUR. Open Me > {product.capitalize()}, choose what it is "
                f"about and send the form; we decide within {days % 7 + 1} working days. A {product} that was opened "
                f"in another country follows the rules of that country.\n",
            )


@contextlib.contextmanager
def started(
    command: Sequence[str], path: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """`command --port` a free one, once `path` answers 200; ended at the end.

    Raises:
        EngineError: It ended, or was not ready in time; with the place of its log.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_S
        while not answers_ok(f"{url}{path}"):
            if process.poll() is not None:
                raise EngineError(f"{command[2]} ended with code {process.returncode} while starting; see {log}")
            if time.monotonic() > deadline:
                raise EngineError(f"{command[2]} was not ready after {START_S} s; see {log}")
            time.sleep(0.1)
        yield Running(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def answers_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def stub(
    work: Path, chunks: int = 100, interval_ms: float = 0, slots: int = 1024
) -> contextlib.AbstractContextManager[Running]:
    """The stub engine with both adapters loaded."""
    command = [sys.executable, "-m", "benchmarks.stub_engine", "--chunks", str(chunks)]
    command += ["--interval-ms", str(interval_ms), "--slots", str(slots)]
    command += ["--lora-modules", *(f"{name}=." for name in ADAPTERS)]
    return started(command, "/health", work / "stub.log")


def assistant(home: Home, engine_url: str | None, **environment: str) -> contextlib.AbstractContextManager[Running]:
    """`assistant serve` as users start it, but that every question reaches the engine.

    Without `engine_url` it starts its engine itself.
    """
    command = [sys.executable, "-m", "assistant.cli", "serve", "--base", home.base]
    command += ["--engine-url", engine_url] if engine_url else []
    given = {"ASSISTANT_HOME": str(home.folder), "ASSISTANT_ON_SENSITIVE_MISS": "adapter", **environment}
    return started(command, "/readyz", home.folder / "logs" / "serve.log", given)


async def ask(session: aiohttp.ClientSession, url: str, asked: dict[str, Any], timeout_s: float = 120) -> Answer:
    """One request to the end, whatever comes."""
    began = time.monotonic()
    first, text, status, ended = 0.0, [], 0, False
    extension: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    try:
        async with session.post(
            f"{url}/v1/chat/completions",
            json=asked,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as reply:
            status = reply.status
            if status != 200:
                error = await reply.text()
                taken, after = time.monotonic() - began, reply.headers.get("Retry-After")
                return Answer(status, began, taken, taken, ended=True, body=error, retry_after=after)
            if not asked.get("stream"):
                whole = await reply.json()
                taken = time.monotonic() - began
                said = whole["choices"][0]["message"]["content"]
                return Answer(status, began, taken, taken, said, True, whole.get("assistant") or {})
            async for line in reply.content:
                if line.startswith(b"data: [DONE]"):
                    ended = True
                elif line.startswith(b"data: "):
                    chunk = json.loads(line[6:])
                    extension = chunk.get("assistant") or extension
                    usage = chunk.get("usage") or usage
                    for choice in chunk.get("choices", ()):
                        if piece := choice["delta"].get("content"):
                            first = first or time.monotonic() - began
                            text.append(piece)
    except (aiohttp.ClientError, TimeoutError) as error:
        taken = time.monotonic() - began
        return Answer(status, began, first or taken, taken, "".join(text), False, extension, repr(error))
    taken = time.monotonic() - began
    return Answer(status, began, first or taken, taken, "".join(text), ended, extension, usage=usage)


def client() -> aiohttp.ClientSession:
    """A session without a limit of its own on connections."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def closed_loop(ask_one: Ask, count: int, concurrency: int) -> list[Answer]:
    """`count` requests, each of `concurrency` clients asking again when it was answered."""
    numbers = iter(range(count))

    async def one_after_another() -> list[Answer]:
        return [await ask_one(number) for number in numbers]

    found = await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    return [answer for answers in found for answer in answers]


async def open_loop(ask_one: Ask, rate: float, seconds: float, seed: int = SEED) -> list[Answer]:
    """Requests at random times, `rate` a second on average (a Poisson process), whatever was answered before."""
    chance = random.Random(seed)
    tasks: list[asyncio.Future[Answer]] = []
    began = due = time.monotonic()
    while (due := due + chance.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(ask_one(len(tasks))))
    return list(await asyncio.gather(*tasks))


async def _one(url: str, asked: dict[str, Any]) -> Answer:
    async with client() as session:
        return await ask(session, url, asked)


async def _closed(url: str, model: str, count: int, stream: bool) -> list[Answer]:
    async with client() as session:
        return await closed_loop(lambda n: ask(session, url, _asked(model, n, stream=stream)), count, CONCURRENCY)


async def _open(arm: _Arm, seconds: float, round_number: int) -> list[Answer]:
    async with client() as session:

        def one(number: int) -> Awaitable[Answer]:
            number += 100_000 * round_number  # so that nobody is asked the same twice
            asked = _asked(arm.model, number, arm.messages, stream=True, max_tokens=TTFT_TOKENS)
            return ask(session, arm.url, asked)

        return await open_loop(one, arm.rate, seconds, SEED + round_number)


def _asked(model: str, number: int, messages: int = WHOLE, **more: Any) -> dict[str, Any]:
    """A request with the conversation of that number; an engine that is asked directly gets the service's prompt."""
    said = conversation(number)[-messages:]
    if not model.startswith("assistant"):
        built = prompt.build([Message(turn["role"], turn["content"]) for turn in said], [])  # type: ignore[arg-type]
        said = [{"role": message.role, "content": message.content} for message in built]
    return body(model, said, **more)


def _check(answers: list[Answer]) -> list[Answer]:
    """The answers, all of them whole and written by the engine.

    Raises:
        EngineError: One is not, so that the figures would not mean anything.
    """
    for answer in answers:
        if answer.status != 200 or not answer.ended:
            raise EngineError(f"a request failed with {answer.status} {answer.body[:300]}; see the logs under --work")
        if answer.extension.get("route", "adapter") not in ("adapter", "grounded"):
            raise EngineError(f"a question did not reach the engine: it got the route {answer.extension['route']}")
    return answers


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "cpu": cpu,
    "ttft": ttft,
    "throughput": throughput,
    "prefix": prefix,
}

if __name__ == "__main__":
    main()
