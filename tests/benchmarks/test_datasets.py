import json
from pathlib import Path

import pytest

from benchmarks import datasets
from benchmarks.datasets import (
    DATASETS,
    banking77,
    btcpay,
    microsoft_en_zh,
    microsoft_zh,
    mtrag,
    opening,
    prepare,
    sentences_100k,
    zeabur_en_zh,
)
from eval.cases import read_cases
from retrieval.errors import InputError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, *rows: object) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_the_btcpay_faq_asks_for_the_pages_that_it_links_and_is_not_indexed(tmp_path: Path) -> None:
    folder = tmp_path / "kb/btcpay"
    for page in ("Wallet.md", "Deployment/Hardware.md", "FAQ/Wallet.md"):
        write(folder / "docs" / page, page)
    write_lines(
        folder / "faq_qa.jsonl",
        {"q": "Both?", "linked_docs": ["/Deployment/Hardware.md", "docs/Wallet.md", "docs/Wallet.md"]},
        {"q": "To the FAQ?", "linked_docs": ["docs/FAQ/Wallet.md", "docs/FAQ/https:/github.com/x.md"]},
        {"q": "Gone?", "linked_docs": ["docs/Docker/README.md"]},
    )
    dataset = btcpay(tmp_path)
    assert dataset.files == {"Wallet.md": "Wallet.md", "Deployment/Hardware.md": "Deployment/Hardware.md"}
    (case,) = dataset.cases
    assert (case.query, case.relevant) == ("Both?", ("Deployment/Hardware.md", "Wallet.md"))


def test_nothing_of_a_microsoft_title_is_left_in_the_file_but_in_running_text(tmp_path: Path) -> None:
    folder = tmp_path / "kb/microsoft-billing-zh"
    text = "# 了解帐单\n\n要了解账单，请登录。\n\n## 了解账单 ##\n\n## 付款\n\n完。"
    article = {"id": "A/understand-your-bill-0.md", "title": "了解账单", "text": text, "translation": "MT"}
    other = {"id": "A/other.md", "title": "其他", "text": "# 其他\n\n正文", "translation": "HT"}
    write_lines(folder / "articles.jsonl", article)
    write_lines(folder / "other_articles.jsonl", other)
    chinese, english = microsoft_zh(tmp_path), microsoft_en_zh(tmp_path)
    assert sorted(chinese.files.values()) == ["正文\n", "要了解账单，请登录。\n\n\n## 付款\n\n完。\n"]
    assert all(len(path) == 15 and int(path[:12], 16) for path in chinese.files)
    assert [(case.query, case.lang) for case in (*chinese.cases, *english.cases)] == [
        ("了解账单", "zh"),
        ("understand your bill", "en"),
    ]
    assert "要了解" in chinese.files[chinese.cases[0].relevant[0]]
    assert english.files == chinese.files and english.cases[0].relevant == chinese.cases[0].relevant


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        ('## How\n\n1. **Start naturally:** "Hi, my card\nis lost."\n2. **Then:** "Thanks."', "Hi, my card is lost."),
        ('1. **Opening - State your goal:** "Close it. If the agent ever asks, say no."', "Close it."),
        (
            "- Start by saying you want to change the email on your account.",
            "I want to change the email on my account.",
        ),
        (
            "You are Bob.\n\nYou're looking for a card (do not mention which) soon. Your wish: it gives you 5%. So.",
            "I'm looking for a card soon. My wish: it gives me 5%.",
        ),
    ],
)
def test_a_customer_of_tau2_opens_with_the_quoted_words_or_the_goal(instructions: str, said: str) -> None:
    assert opening(instructions) == said


def banking(folder: Path) -> None:
    """23 intents of 40 questions each, the first of every intent the same but for its punctuation."""
    rows = [f"intent{i:02},question {n} of {i}" for i in range(23) for n in range(1, 40)]
    same = [f"intent{i:02},Is it the same{'?' * i}" for i in range(23)]
    lines = [",".join(reversed(row.split(","))) for row in same + rows]
    write(folder / "queries/banking77/train.csv", "\n".join(["text,category", *lines]) + "\n")
    far = [[f"far query {n}", "weather"] for n in range(700)]
    clinc = {
        "oos_train": [["who is who", "oos"], ["Question 5 of 3!", "oos"]],
        "oos_val": [["who is who", "oos"]],
        "val": [*far, ["what is my balance", "balance"], ["tell my bank i travel", "travel_notification"]],
    }
    write(folder / "queries/clinc-oos/data_full.json", json.dumps(clinc))


def test_no_question_to_the_banking77_index_stands_in_it(tmp_path: Path) -> None:
    banking(tmp_path)
    dataset = banking77(tmp_path)
    indexed = {line.lower() for text in dataset.files.values() for line in text.splitlines()[1:]}
    assert len(dataset.files) == 3 and all(text.startswith("question\n") for text in dataset.files.values())
    assert not {(case.query or "").lower() for case in dataset.cases} & indexed
    in_scope = [case for case in dataset.cases if case.relevant]
    assert len(in_scope) == 30 and all(case.relevant == (f"{case.group}.csv",) for case in in_scope)


def test_near_questions_are_of_the_intents_held_out_and_far_ones_of_other_domains(tmp_path: Path) -> None:
    banking(tmp_path)
    dataset = banking77(tmp_path)
    near = [case for case in dataset.cases if case.scope == "near"]
    assert len({case.query for case in near}) == datasets.NEAR
    assert not {f"{case.topic}.csv" for case in near} & set(dataset.files)
    far = {
        topic: [case.query for case in dataset.cases if case.topic == topic] for topic in ("clinc-oos", "clinc-other")
    }
    assert "who is who" in far["clinc-oos"] and len(far["clinc-oos"]) == len(set(far["clinc-oos"]))
    assert len(far["clinc-other"]) == datasets.FAR
    assert not {"what is my balance", "tell my bank i travel"} & set(far["clinc-other"])


def test_the_same_seed_draws_the_same_questions(tmp_path: Path) -> None:
    banking(tmp_path)
    assert banking77(tmp_path) == banking77(tmp_path)


def test_an_mtrag_case_is_the_conversation_and_its_passages_entries_of_one_list(tmp_path: Path) -> None:
    def task(number: int, answerability: str, turn: int, *contexts: dict[str, str]) -> dict[str, object]:
        turns = [
            {"speaker": "user", "text": "Hi"},
            {"speaker": "agent", "text": "Yes?"},
            {"speaker": "user", "text": "Why?"},
        ]
        return {
            "task_id": f"t{number}",
            "conversation_id": f"c{number}",
            "turn": str(turn),
            "Multi-Turn": ["Follow-up"],
            "answerability": [answerability],
            "input": turns[-2 * turn + 1 :],
            "contexts": contexts,
        }

    first = {"document_id": "d1", "title": "One", "text": "First."}
    second = {"document_id": "d2", "text": "\nSecond line.\nMore."}
    write_lines(
        tmp_path / "queries/mtrag-un/mtragun-human/generation_tasks/reference.jsonl",
        task(1, "ANSWERABLE", 2, first, second),
        task(2, "PARTIAL", 1, first),
        task(3, "UNANSWERABLE", 2, {"document_id": "d3", "text": "Third."}),
        task(4, "ANSWERABLE", 2),
    )
    dataset = mtrag(tmp_path)
    assert [json.loads(line) for line in dataset.files["passages.jsonl"].splitlines()] == [
        {"id": "d1", "title": "One", "text": "First."},
        {"id": "d2", "title": "Second line.", "text": "Second line.\nMore."},
        {"id": "d3", "title": "Third.", "text": "Third."},
    ]
    follow, start = dataset.cases
    assert (follow.topic, follow.relevant) == ("follow-up", ("passages.jsonl#d1", "passages.jsonl#d2"))
    assert [message.role for message in follow.messages] == ["user", "assistant", "user"]
    assert (start.topic, start.group, len(start.messages)) == ("first", "c2", 1)


def test_a_zeabur_page_asks_for_the_page_of_the_same_path_in_the_other_language(tmp_path: Path) -> None:
    folder = tmp_path / "kb/zeabur-en-zh/docs"
    write(folder / "en-US/team.mdx", "---\nogImage: x\ntitle: Team\n---\n\n# Teams")
    write(folder / "en-US/nuxt.mdx", "import { x } from 'y'\n\n# Nuxt\n")
    write(folder / "en-US/only.mdx", "# Only in English\n")
    write(folder / "zh-CN/team/index.mdx", "---\ntitle: '团队'\n---\n")
    write(folder / "zh-CN/nuxt.mdx", "# Nuxt\n")
    dataset = zeabur_en_zh(tmp_path)
    assert set(dataset.files) == {"team/index.mdx", "nuxt.mdx"}
    assert [(case.query, case.relevant, case.topic) for case in dataset.cases] == [
        ("Nuxt", ("nuxt.mdx",), "same title"),
        ("Team", ("team/index.mdx",), "translated title"),
    ]


def test_plain_text_is_what_a_reader_of_the_page_reads() -> None:
    page = """---
title: T
---
import { Tabs } from 'nextra'

# Pay a [bill](/bill)

<Callout type="info">
- Click **Pay**.
</Callout>

```bash
pay --now
```
| a | b |
1. Done.
"""
    assert datasets._plain(page).split() == "Pay a bill Click Pay. Done.".split()


def test_too_few_sentences_are_an_error_and_no_smaller_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [("Banking77", f"question number {n} of all") for n in range(30)] + [
        ("Page", "A sentence of some length. " * 2)
    ]
    monkeypatch.setattr(datasets, "_texts", lambda data: iter(texts))
    monkeypatch.setattr(datasets, "_lines", lambda path: iter([{"title": f"标题 {n}"} for n in range(10)]))
    monkeypatch.setattr(datasets, "SENTENCE_QUERIES", 10)
    with pytest.raises(ValueError, match="only 23 different sentences, not 100,000"):
        sentences_100k(tmp_path)
    monkeypatch.setattr(datasets, "SENTENCES", 23)
    dataset = sentences_100k(tmp_path)
    rows = [json.loads(line) for line in dataset.files["sentences.jsonl"].splitlines()]
    assert rows[-1] == {"id": "000022", "title": "Page", "text": "A sentence of some length."}
    assert sorted(case.lang or "" for case in dataset.cases) == ["en"] * 8 + ["zh"] * 2
    assert not {case.query for case in dataset.cases} & {row["text"] for row in rows}


def test_a_prepared_data_set_is_a_knowledge_folder_and_cases_that_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "data/kb/btcpay/docs/a/Wallet.md", "# Wallet")
    write_lines(tmp_path / "data/kb/btcpay/faq_qa.jsonl", {"q": "Wallet?", "linked_docs": ["docs/a/Wallet.md"]})
    write(tmp_path / "work/btcpay/knowledge/stale.md", "old")
    prepared = prepare("btcpay", tmp_path / "data", tmp_path / "work")
    assert (prepared.files, prepared.n) == (1, 1)
    assert [path.name for path in prepared.knowledge.rglob("*.md")] == ["Wallet.md"]
    (case,) = read_cases(prepared.cases)
    assert (case.id, case.relevant) == ("btcpay/0", ("a/Wallet.md",))


@pytest.mark.parametrize("name", DATASETS)
def test_missing_files_are_an_input_error_that_says_where_they_come_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data set .* cannot be read: .*benchmarks/datasets\.py says where"):
        prepare(name, tmp_path / "data", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_an_unknown_data_set_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set 'squad'; the data sets are btcpay, "):
        prepare("squad", tmp_path, tmp_path)
