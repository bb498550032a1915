"""Load on the chat service: a home that serves, processes that are started, and clients that ask."""

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
import psutil

from assistant import prompt, releases
from assistant.engine_process import free_port
from assistant.redaction import redact_article
from retrieval.build import build
from retrieval.embedded_encoder import NAME
from retrieval.encoder import Encoder
from retrieval.errors import EngineError

ROOT = Path(__file__).parent.parent
ADAPTERS = ("stub-adapter-a", "stub-adapter-b")
KEY = "sk-benchmark"
WHOLE = 9
"""Messages of a conversation."""
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
    """Of an error."""
    usage: dict[str, Any] = field(default_factory=dict)
    """Of a stream that was asked for it."""
    retry_after: str | None = None


Ask = Callable[[int], Awaitable[Answer]]


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
