import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from assistant.redaction import redact
from retrieval import index as index_module
from retrieval.build import build
from retrieval.errors import IndexDamaged, InputError, NotReady
from retrieval.index import CONTEXT_WEIGHT, Filters, Index, Query, Search
from retrieval.language import language_of
from retrieval.store import Article

ARTICLES = {
    "en/refund.md": "---\nid: refund\ntags: [money, limits]\n---\n# Refunds\n\nA refund is possible within 90 days.\n",
    "en/fees/fee.md": "---\ntags: [money]\n---\n# Costs\n\n## Withdrawals\n\nThe fee is 2 EUR.\n",
    "zh/refund.md": "---\nid: refund\n---\n# 退款\n\n九十天内可以申请退款到银行卡。\n",
    "zh/card.md": "---\ntags: [cards]\n---\n# 银行卡\n\n银行卡五天内寄出。\n",
    "en/faq.csv": "question,answer\nHow do I ask for a refund?,In the app.\n"
    "What are refunds and fees of a year?,In the app.\n",
}
FILES = (
    "centres.npy",
    "gate.json",
    "lexical/data.csc.index.npy",
    "lexical/indices.csc.index.npy",
    "lexical/indptr.csc.index.npy",
    "lexical/params.index.json",
    "lexical/vocab.index.json",
    "passages.sqlite",
    "vectors.faiss",
)
"""Every file of an index but its manifest; tests/retrieval/test_build.py holds it to that."""


@pytest.fixture
def folder(tmp_path: Path, keywords) -> Path:
    for name, text in ARTICLES.items():
        (tmp_path / "knowledge" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "knowledge" / name).write_text(text, encoding="utf-8")
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    return tmp_path / "indexes" / built.id


@pytest.fixture
def index(folder: Path, keywords, gate_at) -> Index:
    """A search is a hit from a cosine of 0.5 on; the share of words weighs nothing, unless a test gives it weight."""
    opened = Index(folder, keywords)
    opened.gate = gate_at(0.5)
    opened._weights = {"en": 0.0, "zh": 0.0}
    return opened


@pytest.fixture
def bilingual(keywords):
    """The fake encoder, to which a Chinese word means what the English one does."""
    counts = keywords.queries

    def queries(texts: list[str]) -> np.ndarray:
        both = counts(texts)[:, :3] + counts(texts)[:, 3:]
        return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)

    keywords.queries = queries
    keywords.fingerprint = "keywords-bilingual"
    return keywords


@pytest.fixture
def accented(bilingual):
    """A bilingual encoder that hears the language as loudly as the meaning: half of a cosine is about languages."""
    meaning = bilingual.queries

    def queries(texts: list[str]) -> np.ndarray:
        chinese = np.array([[language_of(text) == "zh"] for text in texts])
        return np.hstack([meaning(texts), ~chinese, chinese]).astype(np.float32) / np.float32(2**0.5)

    bilingual.queries = queries
    bilingual.fingerprint = "keywords-accented"
    return bilingual


def paths(search: Search) -> list[str]:
    return [found.passage.path for found in search.found]


# Opening


@pytest.mark.parametrize("damage", ["one changed bit", "missing", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_before_a_native_parser_sees_any(
    folder: Path, keywords, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    for parser in ("Store", "Lexical", "OpenVectors"):
        monkeypatch.setattr(index_module, parser, lambda *_: pytest.fail("a parser saw it"))
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "one changed bit" else b"")
    with pytest.raises(IndexDamaged) as raised:
        Index(folder, keywords)
    assert str(raised.value) == f"{path} does not match its manifest; delete {folder} and run: assistant index"


def test_a_build_after_the_damaged_index_was_deleted_makes_it_again(folder: Path, tmp_path: Path, keywords) -> None:
    """The remedy that the message names."""
    shutil.rmtree(folder)
    assert build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact).id == folder.name
    assert len(Index(folder, keywords)) == 6


def test_another_encoder_is_refused(folder: Path, keywords) -> None:
    keywords.fingerprint = "keywords-2"
    with pytest.raises(IndexDamaged, match=f"index {folder.name} was built with the encoder keywords .keywords-1."):
        Index(folder, keywords)


@pytest.mark.parametrize(
    "text", ["no json", "{}", '{"format": 99}', "[]", '{"format": 1}', '{"format": 2}', "\udcff", None]
)
def test_a_broken_manifest_is_damage(folder: Path, keywords, text: str | None) -> None:
    path = folder / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IndexDamaged, match=rf"^{path} .*run: assistant index$"):
        Index(folder, keywords)


@pytest.mark.parametrize("field", ["id", "encoder", "files", "passages", "weights", "vectors", "centres"])
def test_a_manifest_without_one_of_its_fields_says_which(folder: Path, keywords, field: str) -> None:
    """Some ended in a KeyError."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[field]
    path.write_text(json.dumps(manifest))
    with pytest.raises(IndexDamaged, match=f"it has no {field}.; delete {folder} and run"):
        Index(folder, keywords)


@pytest.mark.parametrize("encoder", [{}, {"name": "keywords", "fingerprint": "keywords-1"}, 5, None, []])
def test_a_manifest_that_does_not_describe_its_encoder_is_damage(folder: Path, keywords, encoder: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder": encoder}))
    with pytest.raises(IndexDamaged, match=r"manifest\.json is not an index manifest"):
        Index(folder, keywords)


def test_parts_of_different_length_are_damage(folder: Path, keywords) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "passages": 7}))
    with pytest.raises(IndexDamaged, match=f"the parts of index {folder.name} differ in length"):
        Index(folder, keywords)


def test_an_empty_folder_and_one_that_is_nowhere_are_not_ready(tmp_path: Path, keywords) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(NotReady, match=f"there is no index in {tmp_path / name}; run: assistant index"):
            Index(tmp_path / name, keywords)


def test_opening_and_searching_change_no_file(folder: Path, keywords) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    opened = Index(folder, keywords)
    opened.search("refund", 3)
    opened.close()
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    } == before


def test_an_index_knows_its_documents_and_shows_them_whole(index: Index) -> None:
    assert len(index) == 6
    assert index.paths() == {*(set(ARTICLES) - {"en/faq.csv"}), "en/faq.csv#2", "en/faq.csv#3"}
    assert index.article("zh/card.md") == Article("zh/card.md", "银行卡", "zh", "# 银行卡\n\n银行卡五天内寄出。")
    assert index.article("en/faq.csv#2") == Article("en/faq.csv#2", "How do I ask for a refund?", "en", "In the app.")
    assert index.article("zh/none.md") is None


# Ranking


def test_dense_search_finds_by_cosine_best_first(index: Index) -> None:
    found = index.search("Is there a fee for a refund or a refund?", 3, mode="dense").found
    # The query is (2, 1)/√5: an entry with both words has 3/√10, the refund passage 2/√5, the fee passage 1/√5.
    assert [entry.passage.path for entry in found] == ["en/faq.csv#3", "en/refund.md", "en/fees/fee.md"]
    assert [entry.score for entry in found] == [0.9487, 0.8944, 0.4472]
    assert all(entry.score == entry.dense for entry in found)


def test_bm25_finds_only_passages_with_a_word_of_the_query(index: Index) -> None:
    found = index.search("withdrawal", 9, mode="bm25").found
    assert [entry.passage.path for entry in found] == ["en/fees/fee.md"]
    assert 0 < found[0].score == found[0].lexical < 1 and found[0].dense == 0
    assert index.search("bitcoin", 9, mode="bm25").found == ()


def test_hybrid_adds_the_weighted_share_of_words_to_the_cosine(index: Index) -> None:
    index._weights = {"en": 0.5}
    found = index.search("refund possible", 9).found
    assert found[0].passage.path == "en/refund.md"
    for entry in found:
        assert entry.score == pytest.approx(entry.dense + 0.5 * entry.lexical, abs=1e-4)
    without = index.search("退款", 1).found[0]  # no weight is known for Chinese
    assert without.score == without.dense == 0.8944 and without.lexical > 0  # (2, 1)/√5: the title counts too


def test_hybrid_finds_a_passage_that_only_its_words_propose(folder: Path, keywords, gate_at) -> None:
    """Of sixty passages that are nearer by cosine, none holds the rare word; the passage that does is found all the
    same, though dense search proposes fifty at most."""
    knowledge = folder.parent.parent / "many"
    knowledge.mkdir()
    for n in range(60):
        (knowledge / f"{n}.md").write_text(f"# Article {n}\n\nA fee{' and a card' * (n % 7)}.\n")
    (knowledge / "rare.md").write_text("# Zloty\n\nWe take zloty.\n")
    built = build([knowledge], folder.parent, keywords, redact)
    opened = Index(folder.parent / built.id, keywords)
    opened._weights = {"en": 1.0}
    search = opened.search("zloty fee", 61)
    rare = next(found for found in search.found if found.passage.path == "rare.md")
    assert rare.dense == 0 and rare.lexical > 0.2
    assert "rare.md" not in paths(opened.search("zloty fee", 5, mode="dense"))
    assert paths(opened.search("zloty fee", 5, mode="bm25"))[0] == "rare.md"


def test_of_entries_with_one_answer_the_best_is_shown(index: Index) -> None:
    english = Filters(language="en")
    found = index.search("refunds and fees", 9, filters=english)
    assert sorted(paths(found)) == ["en/faq.csv#3", "en/fees/fee.md", "en/refund.md"]
    found = index.search("refunds", 9, filters=english)
    assert sorted(paths(found)) == ["en/faq.csv#2", "en/fees/fee.md", "en/refund.md"]
    assert sorted(paths(index.search("refunds", 9, mode="bm25"))) == ["en/faq.csv#2", "en/refund.md"]


def test_at_most_count_passages_are_found(index: Index) -> None:
    assert [len(index.search("refund", count).found) for count in (1, 2, 50)] == [1, 2, 4]


def test_a_query_that_says_nothing_still_answers(index: Index) -> None:
    for query in ("", "?", "the"):
        search = index.search(query, 2)
        assert len(search.found) == 2 and search.decision == "miss"


def test_a_traditional_question_finds_simplified_articles(index: Index) -> None:
    best = index.search("銀行卡幾天寄出？", 1).found[0]
    assert (best.passage.path, best.dense) == ("zh/card.md", 1.0)
    assert best.lexical > 0


def test_embedding_is_of_questions_in_simplified_chinese(index: Index, keywords) -> None:
    keywords.seen.clear()
    assert index.embed(["手續費"]).tolist() == [[0, 0, 0, 0, 1, 0]]
    assert keywords.seen == ["手续费"]


def test_what_was_said_before_moves_the_question_but_not_its_words(index: Index) -> None:
    """The question is (1, 0), its context (0, 1): mixed 0.7 to 0.3 and made a unit again."""
    assert CONTEXT_WEIGHT == 0.3
    filters = Filters(folder="en/fees")
    (alone,) = index.search("And the fee?", 1, filters=filters).found
    (follows,) = index.search(
        Query("And the fee?", "Is a refund possible? And the refund of it"), 1, filters=filters
    ).found
    assert alone.dense == 1.0
    assert follows.dense == pytest.approx(0.7 / (0.7**2 + 0.3**2) ** 0.5, abs=1e-4)
    assert follows.lexical == alone.lexical


def test_a_follow_up_that_says_nothing_is_searched_for_by_its_context(index: Index) -> None:
    assert index.search(Query("And why?", "A refund? Yes. And why?"), 1).found[0].dense == 1.0
    assert not np.isnan(index.search(Query("And why?", "Hello. And why?"), 1).found[0].dense)


# Languages


def test_translations_of_what_the_questions_language_has_are_not_searched(index: Index) -> None:
    """Refunds stand in both languages; fees and the list only in English, cards only in Chinese."""
    files = [
        {path.partition("#")[0] for path in paths(index.search(question, 9))} for question in ("refund", "退款要多久？")
    ]
    shared = {"en/fees/fee.md", "en/faq.csv", "zh/card.md"}
    assert files == [{*shared, "en/refund.md"}, {*shared, "zh/refund.md"}]


def test_a_language_that_is_given_overrides_what_the_question_looks_like(index: Index) -> None:
    assert "en/refund.md" not in paths(index.search("Visa 退款", 9))
    assert "en/refund.md" in paths(index.search("Visa 退款", 9, "en"))


def test_what_only_the_other_language_has_is_found_and_can_be_a_hit(folder: Path, bilingual, gate_at) -> None:
    """No English article names cards. The Chinese one on cards is found; the one on refunds, which names cards as
    well, is not, since its translation is searched."""
    built = build([folder.parent.parent / "knowledge"], folder.parent, bilingual, redact)
    index = Index(folder.parent / built.id, bilingual)
    index.gate = gate_at(0.5)
    search = index.search("How do I get a card?", 9)
    assert search.decision == "hit"
    assert search.found[0].passage.path == "zh/card.md" and "zh/refund.md" not in paths(search)
    assert (search.found[0].dense, search.found[0].lexical) == (1.0, 0.0)  # words are not compared across scripts
    assert index.search("How do I get a refund?", 9).found[0].passage.path.startswith("en/")


def entries(path: Path, *counted: tuple[int, str, str]) -> None:
    """A list of articles, each title and text so many times."""
    lines = [json.dumps({"title": title, "text": text}) for count, title, text in counted for _ in range(count)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines))


def test_cosines_of_each_language_are_taken_above_their_mean(folder: Path, accented) -> None:
    """The question means a refund. English passages, none on refunds, all have a cosine of 1/2; of the Chinese ones,
    all a half lower, half are on refunds: 1/2 too, but 1/4 above their mean."""
    entries(folder / "../many/a.jsonl", (30, "Fee", "The fee."), (15, "退款", "退款。"), (15, "银行卡", "银行卡。"))
    built = build([folder / "../many"], folder.parent, accented, redact)
    index = Index(folder.parent / built.id, accented)
    best = index.search("A refund?", 1).found[0]
    assert (best.passage.title, best.dense, best.score) == ("退款", 0.5, 0.75)


def test_the_mean_of_a_few_passages_says_nothing(folder: Path, accented) -> None:
    """The mean of a single passage is its own cosine: above it, the only Chinese article was found below any English
    one, for the very question that it answers."""
    entries(folder / "../few/a.jsonl", (1, "Fee", "The fee."), (1, "Refund", "A refund."), (1, "退款", "退款。"))
    built = build([folder / "../few"], folder.parent, accented, redact)
    index = Index(folder.parent / built.id, accented)
    titles = [found.passage.title for found in index.search("怎么退款", 9).found]
    assert (titles[0], sorted(titles)) == ("退款", ["Fee", "Refund", "退款"])


def test_without_articles_in_its_language_a_question_searches_the_other(folder: Path, keywords, gate_at) -> None:
    built = build([folder.parent.parent / "knowledge"], folder.parent, keywords, redact, exclude=("zh",))
    index = Index(folder.parent / built.id, keywords)
    assert {path[:2] for path in paths(index.search("退款要多久？", 5))} == {"en"}


# Hit or miss


def test_the_decision_is_the_gates_and_ambiguous_is_shown(index: Index, gate_at) -> None:
    assert index.search("refund", 1).decision == "hit"
    assert index.search("weather", 1).decision == "miss"
    index.gate = type(index.gate)(0.05)  # not fitted
    search = index.search("weather", 1)
    assert (search.decision, search.hit, search.probability) == ("ambiguous", True, 0.5)


def test_the_decision_is_the_same_in_every_mode(index: Index) -> None:
    for query in ("refund", "weather", "退款"):
        assert len({index.search(query, 3, mode=mode).decision for mode in ("hybrid", "dense", "bm25")}) == 1


# Filters


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), ["en/faq.csv#2", "en/fees/fee.md", "en/refund.md", "zh/card.md"]),
        (Filters(language="en"), ["en/faq.csv#2", "en/fees/fee.md", "en/refund.md"]),
        (Filters(language="zh"), ["zh/card.md", "zh/refund.md"]),
        (Filters(tag="money"), ["en/fees/fee.md", "en/refund.md"]),
        (Filters(tag="limits"), ["en/refund.md"]),
        (Filters(folder="en/fees"), ["en/fees/fee.md"]),
        (Filters(folder="/en/fees/"), ["en/fees/fee.md"]),
        (Filters(folder="en/fees/fee.md"), ["en/fees/fee.md"]),
        (Filters(folder="en/faq.csv"), ["en/faq.csv#2"]),
        (Filters(folder="en", tag="money"), ["en/fees/fee.md", "en/refund.md"]),
        (Filters(language="en", tag="money", folder="en/fees"), ["en/fees/fee.md"]),
        (Filters(tag="cards"), ["zh/card.md"]),  # nothing in the question's language
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_a_filter_leaves_only_what_it_names(index: Index, filters: Filters, found: list[str], mode: str) -> None:
    assert sorted(paths(index.search("refund", 9, mode=mode, filters=filters))) == found


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        (Filters(tag="no-such"), "tag 'no-such'"),
        (Filters(tag="mone"), "tag 'mone'"),
        (Filters(folder="en/fee"), "folder 'en/fee'"),
        (Filters(folder="en", tag="cards"), "tag 'cards', folder 'en'"),
        (Filters(language="zh", tag="money"), "language zh, tag 'money'"),
    ],
)
def test_a_filter_that_matches_nothing_is_an_input_error_that_names_it(
    index: Index, filters: Filters, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        index.search("refund", 9, filters=filters)


def test_a_language_without_a_passage_is_an_input_error(folder: Path, keywords) -> None:
    built = build([folder.parent.parent / "knowledge"], folder.parent, keywords, redact, exclude=("zh",))
    with pytest.raises(InputError, match=r"no passage matches the filter .language zh"):
        Index(folder.parent / built.id, keywords).search("refund", 9, filters=Filters(language="zh"))


# Reranking


class ByLength:
    """Prefers the shortest text; scores in steps that four digits do not show."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def scores(self, query: str, passages: list[str]) -> list[float]:
        self.asked.append((query, passages))
        return [0.9 - len(passage) / 1e7 for passage in passages]


def test_a_reranker_reads_the_best_passages_and_orders_them(folder: Path, keywords) -> None:
    reranker = ByLength()
    index = Index(folder, keywords, reranker)
    search = index.search("refund", 2)
    ((query, read),) = reranker.asked
    assert query == "refund" and len(read) == 4  # more than were asked for
    shortest = sorted(read, key=len)
    assert shortest[0] == "银行卡\n银行卡五天内寄出。" != read[0]
    assert [found.passage.context for found in search.found] == shortest[:2]
    assert [found.score for found in search.found] == [0.9, 0.9]
    assert search.found[0].dense == 0.0  # the cosine is still told


def test_a_reranker_reads_no_more_than_twenty(folder: Path, keywords) -> None:
    knowledge = folder.parent.parent / "many"
    knowledge.mkdir()
    for n in range(30):
        (knowledge / f"{n}.md").write_text(f"# Article {n}\n\n{'A fee. ' * (n + 1)}{'A card. ' * (30 - n)}\n")
    built = build([knowledge], folder.parent, keywords, redact)
    reranker = ByLength()
    index = Index(folder.parent / built.id, keywords, reranker)
    assert len(index.search("fee", 3).found) == 3 and len(reranker.asked[0][1]) == 20
    assert len(index.search("fee", 25).found) == 25 and len(reranker.asked[1][1]) == 20


def test_dense_and_bm25_searches_are_not_reranked(folder: Path, keywords) -> None:
    reranker = ByLength()
    index = Index(folder, keywords, reranker)
    index.search("refund", 3, mode="dense")
    index.search("refund", 3, mode="bm25")
    assert reranker.asked == []


# Many at once


def test_many_searches_are_the_searches_one_by_one(index: Index) -> None:
    questions = ["Is there a fee for a refund?", "退款到银行卡", "weather"]
    together = index.search_many([Query(question) for question in questions], 3, ["en", "zh", "en"])
    assert together == [index.search(question, 3) for question in questions]
    assert index.search_many([], 3, []) == []


def test_threads_searching_at_once_find_what_one_finds(index: Index) -> None:
    questions = ["refund", "fee", "退款", "銀行卡", "card", "withdrawal costs"] * 20
    alone = [index.search(question, 3) for question in questions]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda question: index.search(question, 3), questions)) == alone


# With the embedded encoder, over the sample company's articles


def test_many_searches_find_what_one_finds_with_the_embedded_encoder(knowledge_index) -> None:
    questions = ["How long can I ask for a refund?", "提现要手续费吗", "Where is my invoice?"]
    together = knowledge_index.search_many([Query(question) for question in questions], 3, ["en", "zh", "en"])
    alone = [knowledge_index.search(question, 3) for question in questions]
    for one, other in zip(together, alone, strict=True):
        assert paths(one)[0] == paths(other)[0]
        assert np.allclose([entry.score for entry in one.found], [entry.score for entry in other.found], atol=0.02)


@pytest.mark.parametrize(
    ("question", "path"),
    [
        ("How many days do I have to request a refund?", "en/refund-window.md"),
        ("What is the time limit to request a refund?", "en/refund-window.md"),
        ("付款后多久之内可以申请退款？", "zh/refund-window.md"),
        ("付款後多久之內可以申請退款？", "zh/refund-window.md"),
    ],
)
def test_a_near_verbatim_question_is_a_hit_on_its_article(knowledge_index, question: str, path: str) -> None:
    search = knowledge_index.search(question, 3)
    assert search.hit
    assert search.found[0].passage.path == path


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "Write me a poem about the sea", "今天上海天气怎么样？"]
)
def test_an_off_topic_question_is_a_miss(knowledge_index, question: str) -> None:
    assert knowledge_index.search(question, 3).decision == "miss"


def test_every_passage_fits_the_encoder_and_points_at_its_article(knowledge_index, encoder) -> None:
    passages = knowledge_index._store.passages(range(len(knowledge_index)))
    assert len({passage.id for passage in passages}) == len(passages)
    for passage in passages:
        assert encoder.count_tokens(passage.context) <= encoder.max_tokens - 8
        assert passage.path.startswith(f"{passage.language}/")
        article = knowledge_index.article(passage.path)
        assert article.title == passage.title
        # The text without its blanks and marks stands there, in order.
        span = iter(article.text[passage.start : passage.end])
        assert all(character in span for character in "".join(passage.text.split()))
