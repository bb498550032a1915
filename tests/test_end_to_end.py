"""The whole product without a fake: articles and logs → index → QLoRA → vLLM → HTTP → a cited answer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from assistant import prompt
from assistant.base_models import load_tokenizer
from assistant.engine import Engine
from assistant.engine_process import free_port
from assistant.prompt import Message
from assistant.releases import live
from retrieval.passages import Passage

ARTICLES = {
    "en/refund.md": "# Refunds\n\n## The time limit\n\nYou can request a refund within 45 days of the payment.\n",
    "en/fees.md": "# Fees\n\n## Withdrawal fee\n\nA withdrawal to a bank account costs 2.5 EUR.\n",
    "zh/refund.md": "# 退款\n\n## 申请期限\n\n付款后 45 天内可以申请退款。\n",
}
LOGS = [
    ("How long can I ask for a refund?", "You can request a refund within 45 days of the payment."),
    ("until when are refunds possible", "Refunds are possible within 45 days of the payment."),
    ("What does a withdrawal cost?", "A withdrawal to a bank account costs 2.5 EUR."),
    ("price of a bank withdrawal?", "Each withdrawal to a bank account costs 2.5 EUR."),
]


def command(home: Path, *arguments: str) -> str:
    """Run `assistant …` as a user would; return what it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "assistant.cli", *arguments],
        env={**os.environ, "ASSISTANT_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an index over three articles and an adapter of four QLoRA steps."""
    folder = tmp_path_factory.mktemp("end-to-end")
    for name, text in ARTICLES.items():
        path = folder / "knowledge" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    lines = [
        json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]})
        for asked, told in LOGS
    ]
    (folder / "logs.jsonl").write_text("\n".join([*lines, "this line is no JSON"]) + "\n")
    (folder / "recipe.yaml").write_text("distractors_share: 0\nnone_share: 0\ncanaries: 0\ngeneral_share: 0\n")
    command(folder, "index", "--knowledge", str(folder / "knowledge"))
    trained = json.loads(
        command(
            folder,
            *("train", "--logs", str(folder / "logs.jsonl"), "--recipe", str(folder / "recipe.yaml")),
            *("--max-steps", "4", "--json"),
        )
    )
    assert trained["steps"] == 4 and trained["examples"] == 4
    return folder


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[str]:
    """`assistant serve` with its own vLLM, in fp32 so that greedy answers can be compared; its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "assistant.cli", "serve", "--port", str(port)],
        env={**os.environ, "ASSISTANT_HOME": str(home), "ASSISTANT_ENGINE_DTYPE": "float32"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 600
    while not _ready(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"assistant serve did not become ready:\n{process.communicate()[0]}")
        time.sleep(1)
    yield url
    engine = _engine_url(home)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{engine}/v1/models", timeout=5)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def ask(service: str, question: str, **options: Any) -> Any:
    client = openai.OpenAI(base_url=f"{service}/v1", api_key="none")
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="assistant", messages=messages, **options)  # type: ignore[call-overload]


def test_an_english_question_is_answered_by_the_adapter_from_a_cited_passage(service: str, home: Path) -> None:
    reply = ask(service, "Within how many days can I request a refund?")
    made = reply.model_extra["assistant"]
    assert made["route"] == "grounded"
    assert made["adapter"] == live(home / "releases").adapter
    assert "45 days" in reply.choices[0].message.content
    assert made["citations"][0]["path"] == "en/refund.md"
    assert made["citations"][0]["quote"] == "You can request a refund within 45 days of the payment."
    assert reply.usage.completion_tokens > 0


def test_a_stream_says_the_same_as_one_reply_and_ends_with_the_extension(service: str) -> None:
    question = "Within how many days can I request a refund?"
    whole = ask(service, question)
    chunks = list(ask(service, question, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    extensions = [chunk.model_extra["assistant"] for chunk in chunks if "assistant" in chunk.model_extra]
    assert text == whole.choices[0].message.content
    assert extensions == [whole.model_extra["assistant"]]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_chinese_question_is_quoted_because_this_base_writes_no_chinese(service: str) -> None:
    reply = ask(service, "付款后多少天内可以退款？")
    assert reply.model_extra["assistant"]["route"] == "quoted"
    assert "付款后 45 天内可以申请退款。 [1]" in reply.choices[0].message.content
    assert reply.model_extra["assistant"]["citations"][0]["path"] == "zh/refund.md"


def test_the_malformed_log_line_is_in_quarantine_with_its_place(home: Path) -> None:
    (quarantine,) = home.glob("runs/*/data/set_aside.jsonl")
    line = json.loads(quarantine.read_text())
    assert line["place"].endswith("logs.jsonl:5") and line["reason"].startswith("not JSON")


async def _engine_tokens(url: str, messages: list[Message]) -> list[int]:
    engine = Engine(url)
    try:
        return await engine.tokens("base", messages)
    finally:
        await engine.close()


def _engine_url(home: Path) -> str:
    log = (home / "logs" / "engine.log").read_text(errors="replace")
    found = re.search(r"http://127\.0\.0\.1:\d+", log)
    assert found, "vLLM did not say where it listens"
    return found[0]


def _messages() -> list[Message]:
    text = "You can request a refund within 45 days of the payment."
    passage = Passage("id", "en/refund.md", "refund", "Refunds", "The time limit", text, "en", 0, 1, "line 5")
    turns = [Message("user", "Hello 你好"), Message("assistant", "Hello, how can I help?")]
    return prompt.build([*turns, Message("user", "How long for a refund of 1,234.50 EUR?")], [passage])


def test_the_engine_sees_the_very_token_ids_that_training_saw(service: str, home: Path) -> None:
    import asyncio

    tokenizer = load_tokenizer(str(home / "models" / "smollm2-135m"))
    messages = _messages()
    seen = asyncio.run(_engine_tokens(_engine_url(home), messages))
    assert seen == prompt.tokens(tokenizer, messages)


def test_vllm_writes_what_peft_writes_in_fp32(service: str, home: Path) -> None:
    """Greedy, token by token: the served base holds the NF4 weights that the adapter was trained on."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = home / "models" / "smollm2-135m-nf4"
    adapter = live(home / "releases").adapter
    assert adapter
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(home / "adapters" / adapter)).eval()
    tokenizer = load_tokenizer(str(folder))
    for question in ("How long can I ask for a refund?", "Who are you?", "What does a bank withdrawal cost?"):
        messages = prompt.build([Message("user", question)], [])
        ids = torch.tensor([prompt.tokens(tokenizer, messages)])
        with torch.no_grad():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        expected = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        client = openai.OpenAI(base_url=f"{_engine_url(home)}/v1", api_key="none")
        reply = client.chat.completions.create(
            model=adapter,
            messages=[message.as_dict() for message in messages],  # type: ignore[misc]
            max_tokens=40,
            temperature=0,
            extra_body={"chat_template_kwargs": prompt.TEMPLATE_ARGUMENTS},
        )
        assert reply.choices[0].message.content == expected
