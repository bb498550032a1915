"""What several test files share: embedded models, prepared once; an encoder that one can follow by eye; Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [name for name in os.environ if name.startswith("ASSISTANT_")]:
    del os.environ[name]

ROOT = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")
WORDS = ("refund", "fee", "card", "退款", "手续费", "银行卡")


class KeywordEncoder:
    """A text's vector is how often each of six words stands in it, scaled to length one; a token is a word."""

    name = "keywords"
    fingerprint = "keywords-1"
    precision = "fp32"
    max_tokens = 264

    def __init__(self) -> None:
        self.seen: list[str] = []
        """Every text that was embedded."""
        self.embedded: list[str] = []
        """Those that were embedded as passages."""

    def queries(self, texts: list[str]) -> np.ndarray:
        self.seen += texts
        counts = np.array([[text.lower().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)

    def passages(self, texts: list[str], progress: bool = False) -> np.ndarray:
        self.embedded += texts
        return self.queries(texts)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture
def keywords() -> KeywordEncoder:
    return KeywordEncoder()


@pytest.fixture
def gate_at():
    """Makes a gate that takes a search for a hit from a best cosine on, and for a miss below it."""
    from retrieval.gate import FEATURES, Gate, Model, Thresholds

    def gate(cosine: float) -> Gate:
        model = Model((FEATURES.index("cosine of the best passage"),), (cosine,), (1.0,), (1.0,), 0.0)
        half = Thresholds(0.5, 0.5, 0)
        return Gate(0.05, {"same": model, "cross": model}, {"all": half, "cross": half})

    return gate


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the embedded models are prepared in."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def encoder(models: Path):
    """The embedded encoder, really loaded."""
    from retrieval.embedded_encoder import NAME
    from retrieval.encoder import Encoder

    return Encoder(NAME, models)


@pytest.fixture(scope="session")
def knowledge_index(encoder, tmp_path_factory: pytest.TempPathFactory):
    """The index over the sample company's articles."""
    from assistant.redaction import redact_article
    from retrieval.build import build
    from retrieval.index import Index

    indexes = tmp_path_factory.mktemp("indexes")
    built = build([ROOT / "knowledge"], indexes, encoder, redact_article)
    return Index(indexes / built.id, encoder)


@pytest.fixture(scope="session")
def smollm(models: Path) -> Path:
    """The folder of the embedded base smollm2-135m."""
    from assistant.base_models import prepare

    return Path(prepare("smollm2-135m", models))


@pytest.fixture(scope="session")
def tiny_base(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers of width 64 that has SmolLM2's real tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from assistant.base_models import load_tokenizer

    folder = tmp_path_factory.mktemp("tiny-base")
    tokenizer = load_tokenizer(str(smollm))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; for one file only, since playwright's event loop would keep `asyncio.run` from the next."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()
