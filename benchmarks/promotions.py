"""Promotion and rollback under load, with the real engine: no failed request, no answer from another adapter.

    python -m benchmarks.promotions --work DIR [--times 20] [--clients 16]

Two adapters of the smallest base are trained for a moment, on the same logs from different seeds, and served by
`assistant serve` with vLLM. While `--clients` ask again and again, the second is promoted and rolled back in turns.
Which adapter answered is read off the probabilities of its first words: both adapters' are taken beforehand, when only
one can answer, and each answer's must be nearer to those of the adapter that it names than to the other's.
"""

import argparse
import asyncio
import json
import random
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from assistant import releases
from assistant.redaction import redact_article
from assistant.settings import Settings, read_settings
from benchmarks.faults import serves
from benchmarks.load import ROOT, Home, assistant, client
from benchmarks.retrieval import Row, table
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder

BASE = "smollm2-135m"
WORDS = 6
"""Of each answer, whose probabilities are compared."""
UNSEEN = -12.0
"""Log probability of a word that is not among the engine's likeliest."""
HUNG_S = 60
PAUSE_S = 10.0
"""Longest that a client waits before it asks again."""
QUESTION = "How long do I have to ask for my money back?"


@dataclass(frozen=True)
class Probe:
    """An answer to `QUESTION`."""

    status: int
    adapter: str
    likeliest: dict[str, float]
    """Log probabilities of the words that could have been the first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models, adapters and logs go")
    parser.add_argument("--times", type=int, default=20, help="promotions, and as many rollbacks (default: 20)")
    parser.add_argument("--clients", type=int, default=16, help="asking one after another (default: 16)")
    options = parser.parse_args()
    settings = read_settings(home=(options.work / "home").resolve(), base=BASE)
    first, second = _trained(options.work, settings)
    at_once = str(options.clients)
    with assistant(Home(settings.home, BASE, 0), None, ASSISTANT_ENGINE_CONCURRENCY=at_once) as ours:
        known, seconds, probes = asyncio.run(_switched(settings, ours.url, (first, second), options))
    rows = list(_rows(known, seconds, probes, options.times))
    print(table(rows))
    sys.exit(any(row.met is False for row in rows))


def _trained(work: Path, settings: Settings) -> tuple[str, str]:
    """Names of the releases of two adapters, the first of which is live."""
    settings.home.mkdir(parents=True, exist_ok=True)
    built = build(
        [ROOT / "knowledge" / "en"],
        settings.indexes,
        Encoder(settings.encoder, settings.models),
        redact_article,
    )
    releases.publish(settings.releases, index=built.id)
    if not (work / "samples").exists():
        runpy.run_path(str(ROOT / "samples" / "make_logs.py"))["write"](work / "samples", conversations=120, days=1)
    adapters = []
    for seed in (1, 2):
        recipe = read_recipe(None, max_steps=6, learning_rate=3e-3, canaries=0, general_share=0.0, seed=seed)
        result = train_on_logs(settings, [work / "samples" / "logs"], recipe, print)
        assert result is not None, "one process only"
        adapters.append(result.adapter)
    one, other = (releases.publish(settings.releases, adapter=adapter) for adapter in reversed(adapters))
    return other.id, one.id


async def _switched(
    settings: Settings, url: str, names: tuple[str, str], options: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, list[float]], list[Probe]]:
    """The likeliest words of each adapter, the seconds that promotions and rollbacks took, and all answers."""
    known: dict[str, dict[str, float]] = {}
    seconds: dict[str, list[float]] = {"promotion": [], "rollback": []}
    probes: list[Probe] = []
    async with client() as session:
        for name in reversed(names):  # the first is live at the end
            releases.promote(settings.releases, name)
            await _until_served(settings, url, name)
            probe = await _ask(session, url)
            known[probe.adapter] = probe.likeliest
        ended = asyncio.Event()

        async def one_after_another(chance: random.Random) -> None:
            while not ended.is_set():
                await asyncio.sleep(chance.uniform(0, PAUSE_S))  # else all begin as one, under the same release
                probes.append(await _ask(session, url))

        clients = [asyncio.ensure_future(one_after_another(random.Random(i))) for i in range(options.clients)]
        await asyncio.sleep(5)
        for _ in range(options.times):
            for kind in seconds:
                began = time.monotonic()
                if kind == "promotion":
                    releases.promote(settings.releases, names[1])
                else:
                    releases.rollback(settings.releases)
                await _until_served(settings, url, names[1] if kind == "promotion" else names[0])
                seconds[kind].append(time.monotonic() - began)
                await asyncio.sleep(2)
        ended.set()
        await asyncio.gather(*clients)
    return known, seconds, probes


async def _until_served(settings: Settings, url: str, name: str) -> None:
    adapter = releases.read(settings.releases, name).adapter
    began = time.monotonic()
    while await asyncio.to_thread(serves, url) != adapter:
        if time.monotonic() > began + HUNG_S:
            raise TimeoutError(f"the service at {url} does not serve {adapter} after {HUNG_S} s")
        await asyncio.sleep(0.05)


async def _ask(session: aiohttp.ClientSession, url: str) -> Probe:
    asked: dict[str, Any] = {"model": "assistant:lora", "messages": [{"role": "user", "content": QUESTION}]}
    asked |= {"max_tokens": WORDS, "logprobs": True, "top_logprobs": 10}
    try:
        async with session.post(
            f"{url}/v1/chat/completions", json=asked, timeout=aiohttp.ClientTimeout(total=HUNG_S)
        ) as reply:
            if reply.status != 200:
                return Probe(reply.status, "", {})
            body = json.loads(await reply.read())
    except (aiohttp.ClientError, TimeoutError):
        return Probe(0, "", {})
    first = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return Probe(200, body["assistant"]["adapter"], {each["token"]: each["logprob"] for each in first})


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """How far two sets of probabilities are apart: the mean difference of their logs."""
    words = one.keys() | other.keys()
    return float(np.mean([abs(one.get(word, UNSEEN) - other.get(word, UNSEEN)) for word in words]))


def _rows(
    known: dict[str, dict[str, float]], seconds: dict[str, list[float]], probes: list[Probe], times: int
) -> list[Row]:
    answered = [probe for probe in probes if probe.status == 200]
    rows = []
    for kind, taken in seconds.items():
        told = f"{np.median(taken):.2f} / {max(taken):.2f} s" if taken else "none"
        met = len(taken) == times and (kind == "promotion" or max(taken) <= 2)
        rows.append(Row(f"{kind}, median / worst", len(taken), told, "<= 2 s" if kind == "rollback" else "", met))
    failed = len(probes) - len(answered)
    rows.append(Row("answers that failed", len(probes), str(failed), "0", failed == 0))
    apart = distance(*known.values())
    rows.append(Row("the adapters are apart by", 2, f"{apart:.2f}", "> 0.1", apart > 0.1))
    own = [distance(probe.likeliest, known[probe.adapter]) for probe in answered]
    others = [
        distance(probe.likeliest, next(words for name, words in known.items() if name != probe.adapter))
        for probe in answered
    ]
    wrong = sum(mine >= other for mine, other in zip(own, others, strict=True))
    rows.append(Row("answers of another adapter than they name", len(answered), str(wrong), "0", wrong == 0))
    rows.append(Row("  furthest from the adapter's own", len(answered), f"{max(own, default=0):.3f}"))
    shares = [sum(probe.adapter == name for probe in answered) for name in known]
    rows.append(Row("answers by adapter", len(answered), " / ".join(f"{share:,}" for share in shares)))
    return rows


if __name__ == "__main__":
    main()
