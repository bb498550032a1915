import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_readers import pdf

from assistant.redaction import redact
from retrieval.build import Built, build
from retrieval.calibration import LabelledQuestion
from retrieval.documents import Skipped
from retrieval.errors import IndexDamaged, InputError, StorageError
from retrieval.index import Index
from retrieval.store import Store

TESTS = Path(__file__).parent.parent
REFUND = "# Refunds\n\n## The time limit\n\nA refund is possible within 90 days.\n"
FEE = "# Costs\n\n## Withdrawals\n\nThe fee is 2 EUR.\n"
CHINESE = "# 退款\n\n## 期限\n\n九十天内可以申请退款。\n"
CARD = re.compile(r"4111\W{0,3}1111")


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    return write(tmp_path / "knowledge", {"en/refund.md": REFUND, "en/fee.md": FEE, "zh/refund.md": CHINESE})


@pytest.fixture
def built(knowledge: Path, tmp_path: Path, keywords) -> Built:
    return build([knowledge], tmp_path / "indexes", keywords, redact)


@pytest.fixture
def folder(built: Built, tmp_path: Path) -> Path:
    return tmp_path / "indexes" / built.id


def indexes_in(folder: Path) -> list[str]:
    """Of a folder of indexes, those that are there whole; the vector cache beside them is none."""
    return sorted(path.parent.name for path in folder.glob("[!.]*/manifest.json"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is built


def test_a_build_says_what_it_indexed(built: Built) -> None:
    assert (built.documents, built.passages, built.languages) == (3, 3, {"en": 2, "zh": 1})
    assert built.tokens == 7 + 5 + 1  # words of the three passages
    assert built.vectors.startswith("flat, recall@10 1.000 of exact")
    assert built.skipped == ()


def test_the_manifest_names_every_file_by_its_hash_but_itself(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["id"] == folder.name
    assert sorted(manifest["files"]) == [
        "centres.npy",
        "gate.json",
        "lexical/data.csc.index.npy",
        "lexical/indices.csc.index.npy",
        "lexical/indptr.csc.index.npy",
        "lexical/params.index.json",
        "lexical/vocab.index.json",
        "passages.sqlite",
        "vectors.faiss",
    ]
    assert sorted(bytes_of(folder)) == sorted([*manifest["files"], "manifest.json"])


def test_several_folders_files_and_archives_are_one_index(tmp_path: Path, keywords) -> None:
    write(tmp_path, {"one/en/fee.md": FEE, "faq.csv": "question,answer\nWhat is a card?,Plastic.\n"})
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("zh/refund.md", CHINESE)
    sources = [tmp_path / "one", tmp_path / "faq.csv", tmp_path / "more.zip"]
    built = build(sources, tmp_path / "indexes", keywords, redact)
    assert (built.documents, built.languages) == (3, {"en": 2, "zh": 1})
    index = Index(tmp_path / "indexes" / built.id, keywords)
    assert index.paths() == {"en/fee.md", "faq.csv#2", "zh/refund.md"}


def test_an_archive_of_a_folder_gives_the_same_index_as_the_folder(
    knowledge: Path, built: Built, tmp_path: Path, keywords
) -> None:
    archive = shutil.make_archive(str(tmp_path / "knowledge-again"), "zip", knowledge)
    assert build([Path(archive)], tmp_path / "indexes", keywords, redact).id == built.id


def test_excluded_and_unreadable_files_are_not_indexed(knowledge: Path, tmp_path: Path, keywords) -> None:
    write(knowledge, {"broken.pdf": b"no PDF at all", "picture.png": b"", "image.md": "![a chart](chart.png)\n"})
    built = build([knowledge], tmp_path / "indexes", keywords, redact, exclude=("zh",))
    assert (built.documents, built.languages) == (2, {"en": 2, "zh": 0})
    assert sorted(skip.path for skip in built.skipped) == ["*.png", "broken.pdf", "image.md"]
    assert Skipped("image.md", "no text") in built.skipped


def test_of_two_documents_with_one_path_the_second_is_skipped_and_said(tmp_path: Path, keywords) -> None:
    entry = json.dumps({"path": "en/fee.md", "title": "Fee", "text": "A card fee."})
    write(tmp_path / "knowledge", {"en/fee.md": FEE, "list.jsonl": entry})
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    assert built.documents == 1
    assert built.skipped == (Skipped("en/fee.md", "another document has this path already; give it another"),)


def test_folders_with_nothing_to_index_are_input_errors_and_no_index_is_left(tmp_path: Path, keywords) -> None:
    write(tmp_path, {"image/a.md": "![a chart](chart.png)\n", "broken/a.pdf": b"no PDF", "empty/.hidden.md": FEE})
    for name in ("empty", "missing", "broken", "image"):
        with pytest.raises(InputError, match=str(tmp_path / name)):
            build([tmp_path / name], tmp_path / "indexes", keywords, redact)
    assert indexes_in(tmp_path / "indexes") == []


def test_what_is_nothing_but_an_image_is_an_input_error_that_says_so(tmp_path: Path, keywords) -> None:
    """It ended in numpy's `need at least one array to stack`."""
    write(tmp_path / "knowledge", {"a.md": "![a chart](chart.png)\n"})
    with pytest.raises(InputError, match=r"(?s)can be indexed; give other articles.*a\.md: no text"):
        build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)


def test_passages_point_at_their_text_in_the_article_that_is_kept(tmp_path: Path, keywords) -> None:
    card = "# Costs\n\nPay with 4111 1111 1111 1111.\n\n## **Withdrawals**\n\nThe *fee* is [2 EUR](fees.md).\n"
    write(tmp_path / "knowledge", {"en/fee.md": card})
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    store = Store(tmp_path / "indexes" / built.id / "passages.sqlite")
    article = store.article("en/fee.md")
    assert article is not None and article.title == "Costs"
    spans = [article.text[passage.start : passage.end] for passage in store.passages([0, 1])]
    assert spans == ["Pay with <CARD_1>.", "The *fee* is [2 EUR](fees.md)."]
    assert [passage.place for passage in store.passages([0, 1])] == ["line 3", "line 7"]


# The same again, and what changed


def test_the_same_articles_give_the_same_index_and_nothing_is_rebuilt(
    knowledge: Path, folder: Path, tmp_path: Path, keywords
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    seen = len(keywords.seen)
    again = build([knowledge], tmp_path / "indexes", keywords, redact)
    assert (again.id, len(keywords.seen)) == (folder.name, seen)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_second_build_says_the_same_as_the_first(knowledge: Path, built: Built, tmp_path: Path, keywords) -> None:
    assert build([knowledge], tmp_path / "indexes", keywords, redact) == built


def test_the_same_articles_elsewhere_give_the_same_bytes(
    knowledge: Path, folder: Path, tmp_path: Path, keywords
) -> None:
    shutil.copytree(knowledge, tmp_path / "copy")
    again = build([tmp_path / "copy"], tmp_path / "others", keywords, redact)
    assert bytes_of(tmp_path / "others" / again.id) == bytes_of(folder)


def test_another_process_gives_the_same_bytes_with_a_fitted_gate_too(tmp_path: Path) -> None:
    """Python orders sets anew in each process; nothing that is written may depend on it."""
    for n in range(40):
        for language, title, words in (
            ("en", f"Article {n}", ("refund ", "fee ")),
            ("zh", f"第{n}条", ("退款 ", "手续费 ")),
        ):
            text = f"---\nid: article-{n}\n---\n# {title}\n\n{words[0] * (n + 1)}{words[1] * (40 - n)}\n"
            write(tmp_path / "knowledge", {f"{language}/{n}.md": text})
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from conftest import KeywordEncoder\n"
        "from retrieval.build import build\n"
        "print(build([Path(sys.argv[2])], Path(sys.argv[3]), KeywordEncoder(), str).id)"
    )
    ids = []
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code, str(TESTS), str(tmp_path / "knowledge"), str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        ids.append(run.stdout.strip())
    one, other = (bytes_of(tmp_path / seed / ids[0]) for seed in ("1", "2"))
    assert ids[0] == ids[1] and one == other
    assert json.loads(one["gate.json"])["models"]


def test_a_changed_article_embeds_itself_only(knowledge: Path, built: Built, tmp_path: Path, keywords: object) -> None:
    keywords.embedded.clear()
    write(knowledge, {"en/fee.md": FEE.replace("2 EUR", "3 EUR")})
    changed = build([knowledge], tmp_path / "indexes", keywords, redact)
    assert keywords.embedded[0] == "Costs > Withdrawals\nThe fee is 3 EUR."
    assert all("The fee is 3 EUR." in text for text in keywords.embedded)
    assert changed.id != built.id


def test_a_new_article_embeds_itself_only(knowledge: Path, built: Built, tmp_path: Path, keywords) -> None:
    keywords.embedded.clear()
    write(knowledge, {"en/card.md": "# Cards\n\nA card is plastic.\n"})
    more = build([knowledge], tmp_path / "indexes", keywords, redact)
    assert keywords.embedded[0] == "Cards\nA card is plastic."
    assert all("A card is plastic." in text for text in keywords.embedded)
    assert more.id != built.id and more.documents == 4


def test_an_article_that_is_gone_embeds_nothing_and_is_found_no_more(
    knowledge: Path, built: Built, tmp_path: Path, keywords
) -> None:
    keywords.embedded.clear()
    (knowledge / "en" / "fee.md").unlink()
    less = build([knowledge], tmp_path / "indexes", keywords, redact)
    assert keywords.embedded == [] and less.id != built.id
    assert Index(tmp_path / "indexes" / less.id, keywords).paths() == {"en/refund.md", "zh/refund.md"}
    assert "en/fee.md" in Index(tmp_path / "indexes" / built.id, keywords).paths()  # the old one is as it was


def test_an_article_that_only_moved_embeds_nothing_but_is_another_index(
    knowledge: Path, built: Built, tmp_path: Path, keywords
) -> None:
    keywords.embedded.clear()
    (knowledge / "en" / "fee.md").rename(knowledge / "en" / "costs.md")
    moved = build([knowledge], tmp_path / "indexes", keywords, redact)
    assert keywords.embedded == [] and moved.id != built.id


def test_what_was_once_asked_of_the_articles_is_not_embedded_again(
    knowledge: Path, built: Built, tmp_path: Path, keywords
) -> None:
    before = {*keywords.seen}
    keywords.seen.clear()
    write(knowledge, {"en/card.md": "# Cards\n\nA card is made of plastic here.\n"})
    build([knowledge], tmp_path / "indexes", keywords, redact)
    asked = [text for text in keywords.seen if "\n" not in text]
    assert len(asked) == 1 and asked[0] in "A card is made of plastic here."  # half of its sentence
    assert asked[0] not in before


def test_another_encoder_is_another_index_and_embeds_everything(
    knowledge: Path, built: Built, tmp_path: Path, keywords
) -> None:
    first = list(keywords.embedded)
    keywords.embedded.clear()
    keywords.fingerprint = "keywords-2"
    assert build([knowledge], tmp_path / "indexes", keywords, redact).id != built.id
    assert keywords.embedded == first


@pytest.mark.parametrize(
    "choice",
    [
        {"false_miss_rate": 0.1},
        {"small": True},
        {"labelled": [LabelledQuestion("Is there a fee?", ("en/fee.md",))]},
        {"exclude": ("zh",)},
    ],
    ids=lambda choice: next(iter(choice)),
)
def test_another_choice_is_another_index_and_embeds_no_passage(
    knowledge: Path, built: Built, tmp_path: Path, keywords, choice: dict
) -> None:
    keywords.embedded.clear()
    assert build([knowledge], tmp_path / "indexes", keywords, redact, **choice).id != built.id
    assert keywords.embedded == []


def test_a_small_index_says_so(knowledge: Path, tmp_path: Path, keywords) -> None:
    built = build([knowledge], tmp_path / "indexes", keywords, redact, small=True)
    assert built.vectors.startswith("flat-sq8, recall@10 1.000 of exact")


def test_traditional_and_simplified_chinese_are_embedded_alike(tmp_path: Path, keywords) -> None:
    write(tmp_path / "knowledge", {"zh/fee.md": "# 手續費\n\n銀行卡手續費。\n"})
    build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    assert keywords.embedded[0] == "手续费\n银行卡手续费。"


# Personal data


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.md", "# Cards\n\nPay with 4111 1111 1111 1111 today.\n"),
        ("card.md", "# Cards\n\n## Card 4111-1111-1111-1111\n\nPay with it.\n"),
        ("card.md", "---\ntitle: Card 4111 1111 1111 1111\n---\n\nPay with it.\n"),
        ("card.md", "---\ntags: [cards, '4111111111111111']\n---\n# Cards\n\nPay with <CARD_1>.\n"),
        ("card.md", "---\nid: 4111111111111111\n---\n# Cards\n\nPay with <CARD_1>.\n"),
        ("faq.csv", "id,question,answer\n1,Is 4111111111111111 mine?,It is.\n"),
        ("faq.csv", "id,question,answer,category\n1,Is it mine?,<CARD_1> is.,4111111111111111\n"),
        ("faq.jsonl", '{"q": "Is it mine?", "a": "4111 1111 1111 1111 is."}'),
        ("card.html", "<h1>Cards</h1><p>Pay with 4111 <b>1111</b> 1111 1111 today.</p>"),
        ("card.pdf", pdf("Pay with 4111 1111 1111 1111 today.", "And tomorrow.")),
        ("card.md", "# Cards\n\nPay with 4111 **1111** 1111 `1111` today.\n"),
        ("card.md", "# Cards\n\n## Card 4111\\_1111&nbsp;1111 1111\n\nPay with it.\n"),
        ("card.md", "# Cards\n\nPay with [4111 1111](card.md)\n1111 1111 today.\n"),
    ],
    ids="text heading title tag id question category answer bold-html pdf markup heading-markup two-lines".split(),
)
def test_a_card_number_never_reaches_a_file_or_the_encoder(
    name: str, content: str | bytes, tmp_path: Path, keywords
) -> None:
    """Redacting Markdown as it stands missed `4111 **1111** 1111 1111`, which passages showed without the stars."""
    write(tmp_path / "knowledge", {name: content, "other.md": REFUND})
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    assert built.documents == 2
    written = bytes_of(tmp_path / "indexes")
    assert any(b"<CARD_1>" in data for data in written.values())
    assert [file for file, data in written.items() if CARD.search(data.decode("latin-1"))] == []
    vocabulary = json.loads(written[f"{built.id}/lexical/vocab.index.json"])
    assert not {"4111", "1111"} & vocabulary.keys()
    assert [text for text in keywords.seen if "1111" in text] == []


def test_a_file_with_a_card_number_for_a_name_is_skipped_and_not_named(tmp_path: Path, keywords) -> None:
    write(tmp_path / "knowledge", {"4111111111111111.md": FEE, "en/refund.md": REFUND})
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    assert built.skipped == (Skipped("<CARD_1>.md", "its name holds personal data; rename it"),)
    assert built.documents == 1


def test_a_customers_question_is_redacted_before_it_is_embedded(knowledge: Path, tmp_path: Path, keywords) -> None:
    labelled = [LabelledQuestion("A refund to 4111 1111 1111 1111?", ("en/refund.md",))]
    build([knowledge], tmp_path / "indexes", keywords, redact, labelled=labelled)
    assert "A refund to <CARD_1>?" in keywords.seen
    assert [text for text in keywords.seen if "1111" in text] == []


# What can go wrong


def test_a_full_disk_leaves_no_index(
    knowledge: Path, tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    def refuse(index: object, path: str) -> None:
        raise RuntimeError("Error in write_index: No space left on device\nat somewhere.cpp")

    monkeypatch.setattr(faiss, "write_index", refuse)
    with pytest.raises(StorageError, match=r"(?i)no space left on device"):
        build([knowledge], tmp_path / "indexes", keywords, redact)
    assert sorted(path.name for path in (tmp_path / "indexes").iterdir()) == [
        ".lock",
        "files.sqlite",
        "vectors.sqlite",
    ]


@pytest.mark.parametrize("most_bytes", [8_000, 60_000])
def test_files_that_the_system_cuts_short_leave_no_index(tmp_path: Path, most_bytes: int) -> None:
    """The real thing: the kernel refuses bytes beyond a limit, to the cache first, then to the passages."""
    long = "".join(f"## Part {n}\n\n{'A refund of a fee. ' * 40}\n\n" for n in range(25))
    write(tmp_path / "knowledge", {"en/refund.md": f"# Refunds\n\n{long}"})
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from conftest import KeywordEncoder\n"
        "from retrieval.build import build; from retrieval.errors import StorageError\n"
        "try: build([Path(sys.argv[2])], Path(sys.argv[3]), KeywordEncoder(), str)\n"
        "except StorageError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(TESTS), str(tmp_path / "knowledge"), str(tmp_path / "indexes")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    assert run.stdout.startswith(f"cannot write {tmp_path / 'indexes'}"), run.stderr
    assert [path.name for path in (tmp_path / "indexes").iterdir() if path.is_dir()] == []


def test_an_index_whose_passages_do_not_find_themselves_is_not_used(tmp_path: Path, keywords) -> None:
    def number(texts: list[str]) -> np.ndarray:
        return np.eye(20, dtype=np.float32)[[int(re.findall(r"\d+", text)[0]) for text in texts]]

    keywords.passages = lambda texts, progress=False: number(texts)
    keywords.queries = lambda texts: -number(texts)
    write(tmp_path / "knowledge", {f"{n}.md": f"# Article {n}\n\nText {n}.\n" for n in range(20)})
    with pytest.raises(IndexDamaged, match="the new index is not used: only 0 of 10 passages find themselves in it"):
        build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    assert indexes_in(tmp_path / "indexes") == []


@pytest.mark.parametrize(
    ("owner", "function", "call", "embedded"),
    [
        ("conftest:KeywordEncoder", "passages", 3, 8),  # in the middle of embedding, four passages at a time
        ("retrieval.store", "_row", 10, 20),  # in the middle of the passages
        ("faiss", "write_index", 1, 20),
        ("retrieval.index:Index", "search_many", 1, 20),  # while it is verified
        ("os", "fsync", 5, 20),
        ("pathlib:Path", "rename", 1, 20),
    ],
    ids=["embedding", "passages", "vectors", "verifying", "flushing", "renaming"],
)
def test_a_build_that_is_killed_leaves_the_old_index_and_the_next_goes_on(
    owner: str, function: str, call: int, embedded: int, knowledge: Path, folder: Path, tmp_path: Path, keywords
) -> None:
    """SIGKILL at a certain call, in a process of its own: what was embedded before it is not embedded again."""
    before = bytes_of(folder)
    texts = [" ".join(["card"] * (n + 1) + ["fee"] * (20 - n)) for n in range(20)]
    write(knowledge, {f"more/{n}.md": f"# Part {n}\n\n{text}\n" for n, text in enumerate(texts)})
    code = (
        "import os, pkgutil, signal, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from conftest import KeywordEncoder; from retrieval import cache; from retrieval.build import build\n"
        "owner, name = pkgutil.resolve_name(sys.argv[4]), sys.argv[5]\n"
        "real = getattr(owner, name); calls = 0; cache._AT_ONCE = 4\n"
        "def killed(*arguments, **options):\n"
        "    global calls; calls += 1\n"
        "    if calls == int(sys.argv[6]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*arguments, **options)\n"
        "setattr(owner, name, killed)\n"
        "build([Path(sys.argv[2])], Path(sys.argv[3]), KeywordEncoder(), str)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, (TESTS, knowledge, tmp_path / "indexes")), owner, function, str(call)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert indexes_in(tmp_path / "indexes") == [folder.name] and bytes_of(folder) == before
    assert Index(folder, keywords).search("refund", 1).found[0].passage.path == "en/refund.md"

    keywords.embedded.clear()
    again = build([knowledge], tmp_path / "indexes", keywords, str)
    contexts = {f"Part {n}\n{text}" for n, text in enumerate(texts)}
    assert len(contexts & {*keywords.embedded}) == 20 - embedded
    assert Index(tmp_path / "indexes" / again.id, keywords).search("card 7 fee", 1).found
    shutil.rmtree(tmp_path / "indexes")
    assert build([knowledge], tmp_path / "indexes", keywords, str).id == again.id


def test_an_index_that_was_damaged_is_moved_aside_and_built_anew(
    knowledge: Path, tmp_path: Path, keywords, caplog: pytest.LogCaptureFixture
) -> None:
    built = build([knowledge], tmp_path / "indexes", keywords, redact)
    damaged = tmp_path / "indexes" / built.id / "vectors.faiss"
    damaged.write_bytes(b"no index")
    assert build([knowledge], tmp_path / "indexes", keywords, redact).id == built.id
    Index(tmp_path / "indexes" / built.id, keywords).close()
    assert "vectors.faiss does not match its manifest" in caplog.text
    assert len(list((tmp_path / "indexes").glob(f"{built.id}-damaged-*"))) == 1


def test_what_a_killed_build_left_is_removed(knowledge: Path, tmp_path: Path, keywords) -> None:
    (tmp_path / "indexes" / ".abc.xyz").mkdir(parents=True)
    build([knowledge], tmp_path / "indexes", keywords, redact)
    assert not (tmp_path / "indexes" / ".abc.xyz").exists()


def test_half_a_character_in_a_list_does_not_stop_the_build(tmp_path: Path, keywords) -> None:
    (tmp_path / "faq.jsonl").write_text('{"question": "A refund \\ud83d?", "answer": "90 days"}\n')
    built = build([tmp_path / "faq.jsonl"], tmp_path / "indexes", keywords, redact)
    assert built.documents == 1


def test_questions_that_name_no_indexed_document_are_an_input_error(knowledge: Path, tmp_path: Path, keywords) -> None:
    labelled = [LabelledQuestion("where is my refund", ("wrong/refund.md",))]
    with pytest.raises(InputError, match=r"the first being 'wrong/refund\.md'"):
        build([knowledge], tmp_path / "indexes", keywords, redact, labelled=labelled)
    labelled.append(LabelledQuestion("refund?", ("en/refund.md",)))
    built = build([knowledge], tmp_path / "indexes", keywords, redact, labelled=labelled)
    assert [skip.path for skip in built.skipped] == ["wrong/refund.md"]
