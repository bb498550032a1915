import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from assistant.redaction import redact
from retrieval.errors import IndexDamaged, InputError, NotReady, StorageError
from retrieval.index import Built, Index, build

REFUND = "# Refunds\n\n## The time limit\n\nA refund is possible within 90 days.\n"
FEE = "# Costs\n\n## Withdrawals\n\nThe fee is 2 EUR.\n"
CHINESE = "# 退款\n\n## 期限\n\n九十天内可以申请退款。\n"


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    folder = tmp_path / "knowledge"
    for name, text in {"en/refund.md": REFUND, "en/fee.md": FEE, "zh/refund.md": CHINESE}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def built(knowledge: Path, tmp_path: Path, keywords) -> Built:
    return build(knowledge, tmp_path / "indexes", keywords, redact)


@pytest.fixture
def folder(built: Built, tmp_path: Path) -> Path:
    return tmp_path / "indexes" / built.id


def test_a_build_says_what_it_indexed(built: Built) -> None:
    assert (built.documents, built.passages, built.languages) == (3, 3, {"en": 2, "zh": 1})
    assert built.tokens == 7 + 5 + 1  # words of the three passages
    assert built.skipped == ()


def test_the_index_folder_holds_exactly_three_files_named_by_their_hashes(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "passages.jsonl", "vectors.faiss"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["id"] == folder.name
    assert sorted(manifest["files"]) == ["passages.jsonl", "vectors.faiss"]


def test_the_same_articles_give_the_same_index_and_nothing_is_rebuilt(
    knowledge: Path, folder: Path, tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(keywords, "passages", lambda *_: pytest.fail("embedded again"))
    again = build(knowledge, tmp_path / "indexes", keywords, redact)
    assert again.id == folder.name
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_same_articles_elsewhere_give_the_same_bytes(
    knowledge: Path, folder: Path, tmp_path: Path, keywords
) -> None:
    shutil.copytree(knowledge, tmp_path / "copy")
    again = build(tmp_path / "copy", tmp_path / "others", keywords, redact)
    for path in folder.iterdir():
        assert (tmp_path / "others" / again.id / path.name).read_bytes() == path.read_bytes()


def test_a_changed_article_or_encoder_gives_another_index(
    knowledge: Path, built: Built, tmp_path: Path, keywords
) -> None:
    keywords.fingerprint = "keywords-2"
    other_encoder = build(knowledge, tmp_path / "indexes", keywords, redact)
    (knowledge / "en" / "fee.md").write_text(FEE.replace("2 EUR", "3 EUR"))
    other_article = build(knowledge, tmp_path / "indexes", keywords, redact)
    assert len({built.id, other_encoder.id, other_article.id}) == 3


def test_excluded_and_unreadable_files_are_not_indexed(knowledge: Path, tmp_path: Path, keywords) -> None:
    (knowledge / "broken.md").write_bytes(b"\xff\xfe\xff")
    again = build(knowledge, tmp_path / "indexes", keywords, redact, exclude=("zh",))
    assert again.languages == {"en": 2, "zh": 0}
    assert [skip.path for skip in again.skipped] == ["broken.md"]


def test_missing_and_empty_folders_are_input_errors_and_no_index_is_left(tmp_path: Path, keywords) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(InputError, match=str(tmp_path / name)):
            build(tmp_path / name, tmp_path / "indexes", keywords, redact)
    assert not (tmp_path / "indexes").exists()


@pytest.mark.parametrize(
    "article",
    [
        "# Cards\n\nPay with 4111 1111 1111 1111 today.\n",
        "# Cards\n\n## Card 4111 1111 1111 1111\n\nPay with it.\n",
        "---\ntitle: Card 4111 1111 1111 1111\n---\n\nPay with it.\n",
    ],
    ids=["in the text", "in a heading", "in the title"],
)
def test_a_card_number_in_an_article_never_reaches_the_index(article: str, tmp_path: Path, keywords) -> None:
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "card.md").write_text(article)
    seen: list[str] = []
    embed = keywords.queries
    keywords.queries = lambda texts: seen.extend(texts) or embed(texts)
    built = build(tmp_path / "knowledge", tmp_path / "indexes", keywords, redact)
    written = (tmp_path / "indexes" / built.id / "passages.jsonl").read_text()
    assert "<CARD_1>" in written
    assert "1111 1111" not in written + " ".join(seen)


def test_a_full_disk_leaves_no_index(
    knowledge: Path, tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    def refuse(index: object, path: str) -> None:
        raise RuntimeError("Error in write_index: No space left on device\nat somewhere.cpp")

    monkeypatch.setattr(faiss, "write_index", refuse)
    with pytest.raises(StorageError, match=r"(?i)no space left on device"):
        build(knowledge, tmp_path / "indexes", keywords, redact)
    assert list((tmp_path / "indexes").iterdir()) == []


@pytest.mark.parametrize("name", ["vectors.faiss", "passages.jsonl"])
def test_one_changed_byte_is_damage_that_names_the_file(folder: Path, keywords, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(IndexDamaged, match=f"{folder / name} does not match its manifest; delete"):
        Index(folder, keywords)


@pytest.mark.parametrize("name", ["vectors.faiss", "passages.jsonl"])
def test_a_missing_file_is_damage_that_names_the_file(folder: Path, keywords, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IndexDamaged, match=name):
        Index(folder, keywords)


def test_another_encoder_is_refused(folder: Path, keywords) -> None:
    keywords.fingerprint = "keywords-2"
    with pytest.raises(IndexDamaged, match=f"index {folder.name} was built with the encoder keywords"):
        Index(folder, keywords)


@pytest.mark.parametrize("text", ["no json", "{}", '{"format": 99}', "[]", '{"format": 1}'])
def test_a_broken_manifest_is_damage(folder: Path, keywords, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(IndexDamaged, match=r"manifest\.json"):
        Index(folder, keywords)


def test_a_folder_without_an_index_is_not_ready(tmp_path: Path, keywords) -> None:
    with pytest.raises(NotReady, match="run: assistant index"):
        Index(tmp_path, keywords)


def test_search_finds_by_cosine_best_first(folder: Path, keywords) -> None:
    index = Index(folder, keywords)
    found = index.search("Is there a fee for a refund?", 5).found
    # The query is (1, 1)/√2; the refund passage (1, 0) holds "refund" only, the fee passage "fee" only.
    assert [entry.score for entry in found] == [0.7071, 0.7071]
    (best,) = index.search("refund", 1).found
    assert (best.passage.path, best.score) == ("en/refund.md", 1.0)


def test_search_stays_in_the_language_of_the_question_where_it_can(folder: Path, keywords) -> None:
    index = Index(folder, keywords)
    assert [entry.passage.path for entry in index.search("退款要多久？", 5).found] == ["zh/refund.md"]
    assert index.search("退款要多久？", 5, "en").found[0].passage.language == "en"


def test_without_articles_in_its_language_a_question_searches_all(knowledge: Path, tmp_path: Path, keywords) -> None:
    again = build(knowledge, tmp_path / "indexes", keywords, redact, exclude=("zh",))
    assert len(Index(tmp_path / "indexes" / again.id, keywords).search("退款要多久？", 5).found) == 2


def test_many_searches_are_the_searches_one_by_one(knowledge_index) -> None:
    questions = ["How long can I ask for a refund?", "提现要手续费吗", "Where is my invoice?"]
    together = knowledge_index.search_many(questions, 3, ["en", "zh", "en"])
    alone = [knowledge_index.search(question, 3) for question in questions]
    for one, other in zip(together, alone, strict=True):
        assert [entry.passage.id for entry in one.found] == [entry.passage.id for entry in other.found]
        assert np.allclose([entry.score for entry in one.found], [entry.score for entry in other.found], atol=1e-3)
    assert knowledge_index.search_many([], 3, []) == []


@pytest.mark.parametrize(
    ("question", "path"),
    [
        ("How many days do I have to request a refund?", "en/refund-window.md"),
        ("What is the time limit to request a refund?", "en/refund-window.md"),
        ("付款后多久之内可以申请退款？", "zh/refund-window.md"),
    ],
)
def test_a_near_verbatim_question_is_a_hit_on_its_article(knowledge_index, question: str, path: str) -> None:
    search = knowledge_index.search(question, 3)
    assert search.hit and search.found[0].score >= search.threshold
    assert search.found[0].passage.path == path


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "Write me a poem about the sea", "今天上海天气怎么样？"]
)
def test_an_off_topic_question_is_a_miss(knowledge_index, question: str) -> None:
    search = knowledge_index.search(question, 3)
    assert not search.hit and search.found[0].score < search.threshold


def test_every_passage_fits_the_encoder_and_points_at_its_article(knowledge_index, encoder) -> None:
    assert len({passage.id for passage in knowledge_index.passages}) == len(knowledge_index.passages)
    for passage in knowledge_index.passages:
        assert encoder.count_tokens(passage.context) <= encoder.max_tokens - 8
        assert passage.path.startswith(f"{passage.language}/")
