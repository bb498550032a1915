import json
from pathlib import Path

import pytest

from assistant.live_index import open_live
from assistant.redaction import redact
from assistant.releases import publish
from assistant.settings import Settings
from retrieval import encoder, reranker
from retrieval.build import build
from retrieval.errors import IndexDamaged, NotReady


@pytest.fixture
def settings(tmp_path: Path, keywords) -> Settings:
    """A home in which the index over one article is live."""
    settings = Settings(home=tmp_path / "home", encoder="keywords")
    (tmp_path / "refund.md").write_text("# Refunds\n\nA refund takes 5 days.\n")
    publish(settings.releases, index=build([tmp_path / "refund.md"], settings.indexes, keywords, redact).id)
    return settings


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch, keywords) -> list:
    """The encoders that were asked for; the fake one is what comes."""
    asked: list = []
    monkeypatch.setattr(encoder, "Encoder", lambda *names, **options: asked.append((*names, options)) or keywords)
    return asked


def live_id(settings: Settings) -> str:
    (folder,) = (path for path in settings.indexes.iterdir() if path.is_dir())
    return folder.name


def test_the_live_index_is_opened_with_the_precision_that_it_was_built_with(
    settings: Settings, asked_for: list
) -> None:
    path = settings.indexes / live_id(settings) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "encoder": {**manifest["encoder"], "precision": "int8"}}))
    index = open_live(settings)
    assert index.search("refund", 1).found[0].passage.path == "refund.md"
    assert asked_for == [("keywords", settings.models, {"precision": "int8"})]


def test_without_a_live_index_it_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="there is no index yet; run: assistant index"):
        open_live(Settings(home=tmp_path))


def test_a_live_index_whose_folder_is_gone_is_not_ready_and_loads_no_encoder(
    settings: Settings, asked_for: list
) -> None:
    (settings.indexes / live_id(settings)).rename(settings.home / "elsewhere")
    with pytest.raises(NotReady, match="there is no index in"):
        open_live(settings)
    assert asked_for == []


def test_a_live_index_that_is_damaged_says_so(settings: Settings, asked_for: list) -> None:
    (settings.indexes / live_id(settings) / "vectors.faiss").write_bytes(b"")
    with pytest.raises(IndexDamaged, match=r"vectors\.faiss does not match its manifest"):
        open_live(settings)


def test_another_encoder_than_it_was_built_with_is_refused(settings: Settings, asked_for: list, keywords) -> None:
    keywords.fingerprint = "keywords-2"
    with pytest.raises(IndexDamaged, match="was built with the encoder keywords"):
        open_live(settings)


def test_a_reranker_is_loaded_if_one_is_set(
    settings: Settings, asked_for: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reranker:
        def __init__(self, name: str) -> None:
            assert name == "a-cross-encoder"

        def scores(self, query: str, passages: list[str]) -> list[float]:
            return [7.0 for _ in passages]

    monkeypatch.setattr(reranker, "CrossEncoderReranker", Reranker)
    assert open_live(settings).search("refund", 1).found[0].score != 7.0
    reranked = open_live(settings.model_copy(update={"reranker": "a-cross-encoder"}))
    assert reranked.search("refund", 1).found[0].score == 7.0
