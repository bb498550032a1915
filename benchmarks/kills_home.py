"""A home with a model of two layers, after one night, and what is new since: what nights are killed on."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assistant import releases
from assistant.settings import Settings, read_settings
from assistant.state import State, Transcript
from finetune.recipe import read_recipe

ARTICLES = {
    "en/refund.md": "# Refunds\n\nYou can ask for a refund within 180 days. You ask for it in the app.",
    "en/voucher.md": "# Vouchers\n\nA voucher is valid for 180 days. It comes by letter.",
    "en/transfer.md": "# Transfers\n\nA transfer takes 3 hours. It is free of charge for everybody.",
    "en/card.md": "# Cards\n\nA new card arrives within 9 days. You order it in the app.",
}
CHANGED = {
    "en/transfer.md": "# Transfers\n\nA transfer takes 4 hours. It is free of charge for everybody.",
    "en/limit.md": "# Limits\n\nYou may pay 900 EUR a day with the app.",
}
ANSWER, WRONG = "You can ask for a refund within 180 days.", "You can ask for a refund within 99 days."
OF_VOUCHERS = "A voucher is valid for 180 days."
TICKETS = {
    "first": (
        "Is there a refund for a broken cup?",
        "May I ask for a refund twice?",
        "Where do I see the refund of my ticket?",
        "How long is a voucher from the airport good?",
    ),
    "second": (
        "The shoes are too small, until when do I get the money back as a refund?",
        "My flight did not go, for how long is a refund open?",
        "Somebody else paid with it, what is the last day of a refund?",
        "Does the voucher in my drawer still count?",
    ),
    "third": (
        "The concert was called off in spring, can a refund still be asked for?",
        "How old may a purchase be for a refund?",
        "We returned the bicycle to the dealer, does the refund run out?",
        "Grandmother gave me a voucher at Christmas, when does it end?",
    ),
}
"""By day; the last of each is about vouchers, and the last two are held out: cases about one article count as one."""
RECIPE = {"peft": {"r": 2}, "max_steps": 2, "batch_size": 2, "canaries": 0, "general_share": 0, "validation_share": 0.5}
GATE = """superior: {metric: facts}
not_worse: [{metric: facts, margin: 0.05}]
complete: {least_cases: 10}
"""
CASES = 12
LATER = "chatcmpl-later"
"""The reply that a customer corrects while the night runs."""


def make_home(home: Path, base: Path, models: Path) -> None:
    """Make the home: articles, an adapter, one night after which a better one serves, and what is new since."""
    from assistant.redaction import redact_article
    from finetune.nightly import nightly
    from finetune.plan import read_plan
    from finetune.run import train_on_logs
    from retrieval.build import build
    from retrieval.encoder import Encoder

    home.mkdir(parents=True)
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models.resolve())
    _write_base(base, models)
    settings = settings_of(home, base)
    _articles(home, ARTICLES)
    built = build(
        [home / "knowledge"], settings.indexes, Encoder(settings.encoder, models), redact_article, progress=False
    )
    releases.publish(settings.releases, index=built.id)
    _tickets(home / "before", "first")
    train_on_logs(settings, [home / "before"], read_recipe(None, **RECIPE), print)
    _plan(home)
    _tickets(home / "tickets", "second")
    _spoil(settings)
    night = nightly(settings, read_plan(home / "nightly.yaml"), print)
    if night is None or night.word != "promoted":
        sys.exit(f"the first night should promote, and came to {night}")
    shutil.rmtree(settings.evaluations / "asked")  # where its adapter is still right
    _spoil(settings)
    _tickets(home / "tickets", "third")
    _articles(home, CHANGED)
    record(home)
    state = State(settings.database_url)
    state.record(_transcript("chatcmpl-early", "Is there a time after which nobody gets a refund?"))
    state.feedback("chatcmpl-early", "down", None, f"{ANSWER} Nobody gets it after that.")
    state.close()


def stand_in(home: Path) -> None:
    """The engine: whatever adapter there is already is wrong; one that is trained from now on is right."""
    from benchmarks.stub_engine import Pace, in_place_of_vllm

    os.environ |= in_place_of_vllm(home / "engine", Pace(11), json.loads((home / "wrong.json").read_text()))


def settings_of(home: Path, base: Path) -> Settings:
    return read_settings(home=home, base=str(base))


def _write_base(base: Path, models: Path) -> None:
    """A random Llama of two layers of width 64 that has SmolLM2's real tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from assistant.base_models import load_tokenizer, prepare

    if base.exists():
        return
    tokenizer = load_tokenizer(prepare("smollm2-135m", models))
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=0.2, **shape, **ends)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)


def _articles(home: Path, articles: Mapping[str, str]) -> None:
    for path, text in articles.items():
        file = home / "knowledge" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"---\nlanguage: en\n---\n{text}\n", encoding="utf-8")


def _tickets(folder: Path, day: str) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{day}.jsonl").open("w", encoding="utf-8") as file:
        for number, question in enumerate(TICKETS[day]):
            fact = OF_VOUCHERS if "voucher" in question else ANSWER
            told = f"{fact} It says so in the app, ticket {day} {'abcd'[number]}."
            said = [{"role": "user", "content": question}, {"role": "assistant", "content": told}]
            file.write(json.dumps({"messages": said, "at": f"2026-{(1, 1, 2, 2)[number]:02}-01T12:00:00Z"}) + "\n")


def _plan(home: Path) -> None:
    """What the nights go by."""
    cases = [{"id": f"c{n}", "query": f"How long, {n} of them?", "facts": ["180 days"]} for n in range(CASES)]
    golden = {"id": "g1", "query": "Until when is there a refund?", "facts": ["180 days"]}
    plan: dict[str, Any] = {
        "knowledge": ["knowledge"],
        "logs": ["tickets"],
        "cases": ["cases.jsonl"],
        "golden": ["golden.jsonl"],
    }
    plan |= {"gate": "gate.yaml", "recipe": "recipe.yaml", "textfile": "nights.prom"}
    (home / "cases.jsonl").write_text("".join(f"{json.dumps(case)}\n" for case in cases), encoding="utf-8")
    (home / "golden.jsonl").write_text(f"{json.dumps(golden)}\n", encoding="utf-8")
    (home / "gate.yaml").write_text(GATE, encoding="utf-8")
    (home / "recipe.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    # Measuring would ask a thousand general questions a night.
    (home / "nightly.yaml").write_text(json.dumps({**plan, "least_answers": 2, "measured": False}), encoding="utf-8")


def _spoil(settings: Settings) -> None:
    """From now on the adapters that there are answer wrong."""
    wrong = {path.name: WRONG for path in settings.adapters.glob("[!.]*")}
    (settings.home / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    stand_in(settings.home)


def record(home: Path) -> None:
    """The reply that a customer is to correct while the night runs."""
    with contextlib.closing(State(database(home))) as state:
        state.record(_transcript(LATER, "Can I have a refund for last year's present?"))


def _transcript(reply: str, question: str) -> Transcript:
    said = ({"role": "user", "content": question}, {"role": "assistant", "content": WRONG})
    return Transcript(
        id=reply,
        at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        tenant="shop",
        customer=None,
        conversation=None,
        lang="en",
        arm="assistant",
        route="grounded",
        reason=None,
        release="",
        messages=said,
        made={},
    )


def database(home: Path) -> str:
    return read_settings(home=home).database_url
