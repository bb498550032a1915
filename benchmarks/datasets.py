"""The public data sets that retrieval is measured on, made into a knowledge folder and cases.

Nothing is downloaded: put the files into one folder, as below, and name it. Each function is pure: it reads from
that folder, draws with a fixed seed, and gives the same knowledge and cases every time.

    DIR/kb/btcpay/                  github.com/btcpayserver/btcpayserver-doc at a8c5db5, MIT
        docs/…                      as in the repository
        faq_qa.jsonl                from docs/FAQ: {"q", "a", "file", "linked_docs": [links of the answer]}
    DIR/kb/microsoft-billing-zh/    github.com/MicrosoftDocs/OfficeDocs-AlchemyInsights-pr.zh-CN at 12c4ba6, CC-BY-4.0
        articles.jsonl              192 of billing: {"id": path, "title", "text", "translation": "HT" | "MT"}
        other_articles.jsonl        800 others, the same fields
    DIR/kb/tau2-banking-synthetic/  github.com/sierra-research/tau2-bench at a2c0247, MIT; written by a model
        data/documents/*.json       data/tau2/domains/banking_knowledge/documents of the repository
        data/tasks/*.json           its tasks
    DIR/kb/zeabur-en-zh/            github.com/zeabur/zeabur at ab949ae, MPL-2.0
        docs/en-US/…  docs/zh-CN/…
    DIR/kb/gumroad/docs/            github.com/esaruoho/gumroad at 719d91d, MIT
    DIR/kb/govuk-pay/docs/          github.com/alphagov/pay-tech-docs at c492a7a, MIT
    DIR/kb/polar/docs/              github.com/polarsource/polar at c6c3645, Apache-2.0
    DIR/logs/cucom-synthetic/       github.com/vakyansh/cucom at 60b9a7f, Apache-2.0; written by a model
        dialogs.jsonl               {"turns": [{"role", "content"}]}
    DIR/logs/star-bank/             github.com/RasaHQ/STAR at 3058975, MIT
        dialogs.jsonl               its bank dialogs: {"turns": [{"role", "text"}]}
    DIR/queries/banking77/          github.com/PolyAI-LDN/task-specific-datasets at 57ec275, CC-BY-4.0
        train.csv
    DIR/queries/clinc-oos/          github.com/clinc/oos-eval at 828f809, CC-BY-3.0
        data_full.json              its splits train, val, oos_train and oos_val
    DIR/queries/mtrag-un/           github.com/IBM/mt-rag-benchmark at cc5b1d4, Apache-2.0
        mtragun-human/generation_tasks/reference.jsonl
"""

import csv
import io
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.cases import Case, CaseMessage
from retrieval.errors import InputError
from retrieval.files import content_id, new_folder
from retrieval.language import language_of, sentences

SEED = 7
HELD_OUT_INTENTS = 20
HELD_OUT_QUESTIONS = 10
"""Of each Banking77 intent that is kept: the cases in scope."""
NEAR = 600
FAR = 600
"""Drawn of CLINC's queries in its domains; all of its out-of-scope ones are taken."""
SENTENCES = 100_000
SENTENCE_QUERIES = 1000
_CLINC_NOT_FAR = frozenset(
    (
        # domain banking of CLINC's domains.json
        "freeze_account routing pin_change bill_due pay_bill account_blocked interest_rate min_payment bill_balance "
        "transfer order_checks balance spending_history transactions report_fraud "
        # domain credit cards
        "replacement_card_duration expiration_date damaged_card improve_credit_score report_lost_card card_declined "
        "credit_limit_change apr redeem_rewards credit_limit rewards_balance application_status credit_score new_card "
        "international_fees "
        # in travel and work, but asked of a bank
        "exchange_rate travel_notification direct_deposit"
    ).split()
)


@dataclass(frozen=True)
class Dataset:
    files: dict[str, str]
    """The text of each knowledge file by its path under the knowledge folder."""
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Prepared:
    """A data set on disk."""

    name: str
    knowledge: Path
    cases: Path
    files: int
    n: int
    """Cases."""


def prepare(name: str, data: Path, work: Path) -> Prepared:
    """Write the data set `name` to `work/name/knowledge/…` and `work/name/cases.jsonl`, replacing what is there.

    Raises:
        InputError: There is no data set of this name, or a file of it is missing in `data` or not what it should be.
        StorageError: The disk refused.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; the data sets are {', '.join(DATASETS)}")
    try:
        dataset = DATASETS[name](data)
    except OSError as error:
        raise InputError(
            f"data set {name}: {error.filename} cannot be read: {error.strerror}; benchmarks/datasets.py says where "
            "the files come from"
        ) from error
    except (ValueError, KeyError) as error:
        raise InputError(f"data set {name} in {data} is not as expected: {type(error).__name__}: {error}") from error
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as scratch:
        for path, text in dataset.files.items():
            file = scratch / "knowledge" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        lines = (case.model_dump_json(exclude_defaults=True) + "\n" for case in dataset.cases)
        (scratch / "cases.jsonl").write_text("".join(lines), encoding="utf-8")
    return Prepared(name, folder / "knowledge", folder / "cases.jsonl", len(dataset.files), len(dataset.cases))


def btcpay(data: Path) -> Dataset:
    """The BTCPay documentation without its FAQ; questions of the FAQ whose answer links pages that are left.

    A link is a path in the repository, or starts with `/` at docs/. Links to FAQ pages, other sites and pages that
    do not exist are dropped. Questions with the same first page are one group.
    """
    folder = data / "kb/btcpay"
    pages = {
        path.relative_to(folder / "docs").as_posix(): path.read_text(encoding="utf-8")
        for path in _files(folder / "docs")
    }
    pages = {path: text for path, text in pages.items() if not path.startswith("FAQ/")}
    cases = []
    for number, pair in enumerate(_lines(folder / "faq_qa.jsonl")):
        links = (link.removeprefix("docs/").removeprefix("/") for link in pair["linked_docs"])
        relevant = tuple(dict.fromkeys(link for link in links if link in pages))
        if relevant:
            query = _LINK.sub(r"\1", pair["q"])
            cases.append(Case(id=f"btcpay/{number}", query=query, relevant=relevant, lang="en", group=relevant[0]))
    return Dataset(pages, tuple(cases))


def microsoft_zh(data: Path) -> Dataset:
    """Chinese support articles without their titles; the titles of the billing articles are the questions.

    A file's name carries no words, and a heading that repeats the title is removed with it. Ten titles belong to
    two or three articles each (22 in all): only the article itself counts as right, and they are one group.
    """
    articles, files = _microsoft(data)
    cases = (
        Case(
            id=f"microsoft-zh/{article['id']}",
            query=article["title"],
            relevant=(_neutral(article),),
            lang="zh",
            group=article["title"],
            topic=article["translation"],
        )
        for article in articles
    )
    return Dataset(files, tuple(cases))


def microsoft_en_zh(data: Path) -> Dataset:
    """The same Chinese articles, asked for by their English titles: the names of their files, dashes as spaces.

    A figure at the end (`-0`) that only tells files apart is dropped; what is then the same is one group.
    """
    articles, files = _microsoft(data)
    cases = []
    for article in articles:
        slug = re.sub(r"-\d$", "", Path(article["id"]).stem)
        title = re.sub("[-–]+", " ", slug)
        cases.append(
            Case(
                id=f"microsoft-en-zh/{article['id']}",
                query=title,
                relevant=(_neutral(article),),
                lang="en",
                group=title,
                topic=article["translation"],
            )
        )
    return Dataset(files, tuple(cases))


def _microsoft(data: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The billing articles, and the files of all articles."""
    folder = data / "kb/microsoft-billing-zh"
    billing = list(_lines(folder / "articles.jsonl"))
    files = {}
    for article in [*billing, *_lines(folder / "other_articles.jsonl")]:
        heading, _, body = article["text"].partition("\n")
        titles = {article["title"].strip(), heading.lstrip("# ").strip()}
        kept = (
            line for line in body.splitlines() if not (line.startswith("#") and line.lstrip("#").strip(" #") in titles)
        )
        files[_neutral(article)] = "\n".join(kept).strip() + "\n"
    return billing, files


def _neutral(article: dict[str, Any]) -> str:
    return f"{content_id(article['id'])}.md"


def tau2(data: Path) -> Dataset:
    """A synthetic bank's documents; what its 97 simulated customers say first, and the documents that a task needs.

    Some tasks begin with the same words; those are one group.
    """
    folder = data / "kb/tau2-banking-synthetic/data"
    documents = [_json(path) for path in _files(folder / "documents")]
    files = {f"{document['id']}.md": f"# {document['title']}\n\n{document['content']}\n" for document in documents}
    cases = []
    for path in _files(folder / "tasks"):
        task = _json(path)
        relevant = tuple(f"{name}.md" for name in task["required_documents"])
        query = opening(task["user_scenario"]["instructions"])
        cases.append(Case(id=f"tau2/{task['id']}", query=query, relevant=relevant, lang="en", group=query))
    return Dataset(files, tuple(cases))


_OPENING = re.compile(r'(?im)^[^"\n]*\b(?:opening|start)[^"\n]*:[^"\n]*"([^"]+)"')
_START = re.compile(r"(?im)^- Start by (?:saying|mentioning) (.+)$")
_LOOKING = re.compile(r"(?m)^(You're looking for .+)$")
_ASIDE = re.compile(
    r"If the agent ever asks\b.*$|\(do not mention[^)]*\)|: make this extremely upfront|You are very upfront .*$", re.S
)
_PERSONS = {
    "gives you": "gives me",
    "you're": "I'm",
    "You're": "I'm",
    "your": "my",
    "Your": "My",
    "you": "I",
    "You": "I",
}
_PERSON = re.compile(rf"\b(?:{'|'.join(_PERSONS)})\b")


def opening(instructions: str) -> str:
    """What the customer of a tau2 task asks first, from the instructions to whoever plays the customer.

    The quoted words after a label with `Opening` or `Start` (89 of 97 tasks); else what follows `Start by saying`
    or `mentioning` (3 tasks), or the first two sentences of the paragraph that begins `You're looking for` (5
    tasks), put into the first person. Directions to the player are cut out.

    Raises:
        ValueError: There is none of these.
    """
    if quoted := _OPENING.search(instructions):
        text = quoted[1]
    elif start := _START.search(instructions) or _LOOKING.search(instructions):
        text = " ".join(sentences(start[1])[:2])
        text = _PERSON.sub(lambda person: _PERSONS[person[0]], _ASIDE.sub("", text))
    else:
        raise ValueError(f"no first question in the instructions {instructions[:80]!r}")
    return " ".join(_ASIDE.sub("", text).split())


def banking77(data: Path) -> Dataset:
    """One question list for each of 57 Banking77 intents; cases in scope, near and far out of it.

    In scope: ten questions of each of these intents. Near: 600 questions of the other 20. Far: all 200 CLINC
    out-of-scope queries of train and validation (topic `clinc-oos`), and 600 of CLINC's queries in other domains
    than banking and credit cards (`clinc-other`), without three intents there that a bank is asked about. About ten
    of the 200 ask about a bank all the same ("how much is an overdraft fee"). Nothing that is asked stands in the
    lists.
    """
    rng = random.Random(SEED)
    intents: dict[str, list[str]] = defaultdict(list)
    seen = set()
    with (data / "queries/banking77/train.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (key := _key(row["text"])) not in seen:
                seen.add(key)
                intents[row["category"]].append(row["text"].strip())
    held_out = set(rng.sample(sorted(intents), HELD_OUT_INTENTS))
    files, cases, near = {}, [], []
    indexed: set[str] = set()
    for intent in sorted(intents):
        if intent in held_out:
            near += [(intent, question) for question in intents[intent]]
            continue
        path = re.sub(r"\W", "", intent) + ".csv"
        questions = rng.sample(intents[intent], len(intents[intent]))
        files[path] = _csv(questions[HELD_OUT_QUESTIONS:])
        indexed.update(map(_key, questions[HELD_OUT_QUESTIONS:]))
        cases += [
            Case(id=f"in/{intent}/{n}", query=question, relevant=(path,), lang="en", group=intent, topic=intent)
            for n, question in enumerate(questions[:HELD_OUT_QUESTIONS])
        ]
    cases += [
        Case(id=f"near/{n}", query=question, scope="near", lang="en", group=intent, topic=intent)
        for n, (intent, question) in enumerate(rng.sample(near, NEAR))
    ]
    clinc = _json(data / "queries/clinc-oos/data_full.json")
    out_of_scope = _unseen([text for text, _ in clinc["oos_train"] + clinc["oos_val"]], indexed)
    others = _unseen([text for text, intent in clinc["val"] if intent not in _CLINC_NOT_FAR], indexed)
    for topic, queries in (("clinc-oos", out_of_scope), ("clinc-other", rng.sample(others, FAR))):
        cases += [
            Case(id=f"far/{topic}/{n}", query=query, scope="far", lang="en", topic=topic)
            for n, query in enumerate(queries)
        ]
    return Dataset(files, tuple(cases))


def mtrag(data: Path) -> Dataset:
    """Multi-turn questions over the passages of all tasks of MTRAG-UN, as one list.

    Cases are the tasks that are answerable at least in part and have a passage. The topic tells a first turn
    (`first`), a question that needs those before (`follow-up`), and one about the answer (`clarification`).
    """
    passages, cases = {}, []
    for task in _lines(data / "queries/mtrag-un/mtragun-human/generation_tasks/reference.jsonl"):
        for context in task["contexts"]:
            text = context["text"].strip()
            title = " ".join((context.get("title") or text.splitlines()[0][:80]).split())
            passages[context["document_id"]] = {"id": context["document_id"], "title": title, "text": text}
        if task["answerability"][0] in ("ANSWERABLE", "PARTIAL") and task["contexts"]:
            topic = "first" if task["turn"] == "1" else task["Multi-Turn"][0].lower()
            cases.append(
                Case(
                    id=f"mtrag/{task['task_id']}",
                    messages=tuple(
                        CaseMessage(role="user" if turn["speaker"] == "user" else "assistant", content=turn["text"])
                        for turn in task["input"]
                    ),
                    relevant=tuple(f"passages.jsonl#{context['document_id']}" for context in task["contexts"]),
                    lang="en",
                    topic=topic,
                    group=task["conversation_id"],
                )
            )
    return Dataset({"passages.jsonl": _jsonl(passages.values())}, tuple(cases))


def zeabur_en_zh(data: Path) -> Dataset:
    """The titles of Zeabur's English pages ask for the parallel pages in an index of the Chinese ones."""
    return _zeabur(data, "en", "zh")


def zeabur_zh_en(data: Path) -> Dataset:
    """The titles of Zeabur's Chinese pages ask for the parallel pages in an index of the English ones."""
    return _zeabur(data, "zh", "en")


_ZEABUR = {"en": "en-US", "zh": "zh-CN"}
_FRONT_TITLE = re.compile(r"\A---\n(?:.*\n)*?title:\s*(.+)\n(?:.*\n)*?---\n")
_HEADING = re.compile(r"(?m)^#\s+(.+)$")


def _zeabur(data: Path, asked: str, indexed: str) -> Dataset:
    """Pages are parallel that have the same path, `x.mdx` and `x/index.mdx` being one.

    A title that both languages share says nothing of another language: those cases have the topic `same title`.
    """
    pages = {}
    for language, name in _ZEABUR.items():
        folder = data / "kb/zeabur-en-zh/docs" / name
        pages[language] = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in _files(folder)}
    parallel = {path.replace("/index.mdx", ".mdx"): path for path in pages[indexed]}
    cases = []
    for path, text in pages[asked].items():
        title, other = _title(text), parallel.get(path.replace("/index.mdx", ".mdx"))
        if title and other:
            same = title == _title(pages[indexed][other])
            cases.append(
                Case(
                    id=f"zeabur/{asked}/{path}",
                    query=title,
                    relevant=(other,),
                    lang="zh" if asked == "zh" else "en",
                    group=title,
                    topic="same title" if same else "translated title",
                )
            )
    return Dataset(pages[indexed], tuple(cases))


def _title(text: str) -> str | None:
    found = _FRONT_TITLE.search(text) or _HEADING.search(text)
    return found[1].strip(" \"'") if found else None


def sentences_100k(data: Path) -> Dataset:
    """100,000 different sentences of all the texts here, each an entry of one list, and 1,000 questions for timing.

    At least 20 characters in English and 8 in Chinese, at most 400; code blocks and pages' components left out.
    People wrote about 88,000 of them; synthetic texts fill the rest up.
    The questions are four fifths English ones of Banking77 and CLINC and one fifth titles of Chinese articles. They
    are not in the list, and nothing is said about what answers them.
    """
    rng = random.Random(SEED)
    english = [text for source, text in _texts(data) if source in ("Banking77", "CLINC")]
    chinese = [article["title"] for article in _lines(data / "kb/microsoft-billing-zh/other_articles.jsonl")]
    chinese = [title for title in chinese if language_of(title) == "zh"]
    of_chinese = SENTENCE_QUERIES // 5
    queries = rng.sample(_unseen(english, set()), SENTENCE_QUERIES - of_chinese)
    queries += rng.sample(_unseen(chinese, set()), of_chinese)
    rng.shuffle(queries)
    seen = set(map(_key, queries))
    entries = []
    for title, text in _texts(data):
        for sentence in sentences(text):
            shortest = 8 if language_of(sentence) == "zh" else 20
            if shortest <= len(sentence) <= 400 and (key := _key(sentence)) not in seen:
                seen.add(key)
                entries.append((title, " ".join(sentence.split())))
    if len(entries) < SENTENCES:
        raise ValueError(f"only {len(entries):,} different sentences, not {SENTENCES:,}")
    rows = ({"id": f"{n:06}", "title": title, "text": text} for n, (title, text) in enumerate(entries[:SENTENCES]))
    cases = (Case(id=f"query/{n}", query=query, lang=language_of(query)) for n, query in enumerate(queries))
    return Dataset({"sentences.jsonl": _jsonl(rows)}, tuple(cases))


def _texts(data: Path) -> Iterator[tuple[str, str]]:
    """Every text with a short title, what people wrote first, as plain text."""
    for name in ("btcpay", "gumroad", "govuk-pay", "polar", "zeabur-en-zh"):
        folder = data / "kb" / name / "docs"
        for path in _files(folder):
            text = path.read_text(encoding="utf-8-sig")
            yield _title(text) or path.stem.split(".")[0], _plain(text)
    for name in ("articles", "other_articles"):
        for article in _lines(data / f"kb/microsoft-billing-zh/{name}.jsonl"):
            yield article["title"], _plain(article["text"])
    for dialog in _lines(data / "logs/star-bank/dialogs.jsonl"):
        yield from (("Bank dialog", turn["text"]) for turn in dialog["turns"])
    for task in _lines(data / "queries/mtrag-un/mtragun-human/generation_tasks/reference.jsonl"):
        for context in task["contexts"]:
            yield " ".join((context.get("title") or "Passage").split()), _plain(context["text"])
        yield from (("Question", turn["text"]) for turn in task["input"] if turn["speaker"] == "user")
    with (data / "queries/banking77/train.csv").open(encoding="utf-8", newline="") as file:
        yield from (("Banking77", row["text"].strip()) for row in csv.DictReader(file))
    for split in _json(data / "queries/clinc-oos/data_full.json").values():
        yield from (("CLINC", text) for text, _ in split)
    for path in _files(data / "kb/tau2-banking-synthetic/data/documents"):
        document = _json(path)
        yield document["title"], _plain(document["content"])
    for dialog in _lines(data / "logs/cucom-synthetic/dialogs.jsonl"):
        yield from (("Shop dialog", turn["content"]) for turn in dialog["turns"])


_CODE = re.compile(r"(?ms)^\s*(```|~~~).*?^\s*\1\s*$")
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.S)
_NO_TEXT = re.compile(r"(?m)^(?:import|export) .*$|^\s*\|.*$|<[^>\n]*>|!\[[^\]]*\]\([^)]*\)|\{\{.*?\}\}|^:::.*$")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"(?m)^\s*(?:[-*+>#]|\d+\.)+\s+|[*_`]{1,3}|\\$")


def _plain(markdown: str) -> str:
    """Roughly the words of Markdown or MDX: without front matter, code blocks, tables, components and links."""
    text = _NO_TEXT.sub(" ", _CODE.sub("\n", _FRONT.sub("", markdown)))
    return _MARKS.sub("", _LINK.sub(r"\1", text))


def _key(text: str) -> str:
    """What two questions share that differ in case, white space and punctuation only."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _unseen(texts: list[str], seen: set[str]) -> list[str]:
    """The texts that are neither in `seen` nor said twice."""
    first = {_key(text): text for text in reversed(texts)}
    return [text for text in texts if _key(text) not in seen and first[_key(text)] is text]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such folder", str(folder))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _jsonl(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(questions: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["question"], *([question] for question in questions)])
    return text.getvalue()


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "btcpay": btcpay,
    "microsoft_zh": microsoft_zh,
    "microsoft_en_zh": microsoft_en_zh,
    "tau2": tau2,
    "banking77": banking77,
    "mtrag": mtrag,
    "zeabur_en_zh": zeabur_en_zh,
    "zeabur_zh_en": zeabur_zh_en,
    "sentences_100k": sentences_100k,
}
