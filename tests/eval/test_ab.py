"""A whole evaluation, against a service on a real port."""

from pathlib import Path
from typing import Any

import pytest

from eval import report
from eval.ab import Models, Plan, evaluate, spread
from eval.answers import read_answers
from eval.asking import Asker
from eval.cases import Case, read_cases
from retrieval.errors import InputError


def cases(count: int) -> list[Case]:
    facts = {"facts": ("5 days",), "relevant": ("en/refund.md",), "reference": "A refund takes 5 days."}
    return [Case(id=f"c{n}", query=f"Question {n}?", lang="en", **facts) for n in range(count)]


def run(url: str, folder: Path, **plan: Any):
    given = {"cases": cases(20), "arms": ("rag", "rag+lora"), "prompts": ("plain",)} | plan
    return evaluate(Plan(**given), Asker(url, folder / "asked"), Models(), folder, progress=False)


def test_the_better_arm_wins_and_the_report_lies_beside_its_answers(url: str, tmp_path: Path) -> None:
    results = run(url, tmp_path, about="Made up.")
    folder = tmp_path / results.id
    assert results.verdict == "better"
    assert results.comparisons[0].differences["facts"].mean == 1.0
    assert results.findings["en"][0] == "Made up."
    assert report.read(folder) == results
    assert {path.name for path in folder.iterdir()} >= {"report.html", "report.md", "cases.jsonl", "scores.jsonl"}
    assert read_cases(folder / "cases.jsonl") == cases(20)
    assert {answer.arm for answer in read_answers(folder / "answers.jsonl")} == {"rag", "rag+lora"}


def test_the_same_evaluation_again_asks_nothing_and_says_the_same(url: str, stub: Any, tmp_path: Path) -> None:
    first = run(url, tmp_path)
    asked = len(stub.asked)
    second = run(url, tmp_path)
    assert len(stub.asked) == asked
    assert (second.id, second.comparisons, second.arms) == (first.id, first.comparisons, first.arms)


def test_each_arm_gets_the_prompt_that_was_best_on_other_cases(url: str, stub: Any, tmp_path: Path) -> None:
    """With the prompt `short` the arm `rag` is right; for `rag+lora` both are, and the first named is kept."""
    development = [Case(id="d1", query="Other?", lang="en", facts=("5 days",))]
    results = run(url, tmp_path, development=development, prompts=("plain", "short"))
    assert [(arm.name, arm.prompt, arm.tried) for arm in results.arms] == [
        ("rag", "short", {"plain": 0.0, "short": 1.0}),
        ("rag+lora", "plain", {"plain": 1.0, "short": 1.0}),
    ]
    assert {way for way, question in stub.asked if question.startswith("Question")} == {"rag@short", "rag+lora"}
    assert results.verdict == "no difference"


def test_prompts_are_tried_on_every_language_and_kind_and_on_what_no_article_answers() -> None:
    """The first ones of the file were taken, all English and answerable."""
    kinds = [("en", "hit")] * 30 + [("zh", "hit")] * 5 + [("en", "miss")] * 5
    development = [Case(id=str(n), query="?", lang=lang, slice=kind) for n, (lang, kind) in enumerate(kinds)]
    taken = [(case.lang, case.slice) for case in spread(development, 12)]
    assert [taken.count(kind) for kind in (("en", "hit"), ("zh", "hit"), ("en", "miss"))] == [4, 4, 4]


def test_a_prompt_that_is_named_alone_is_the_one_asked_with(url: str, stub: Any, tmp_path: Path) -> None:
    results = run(url, tmp_path, prompts=("short",))
    assert [arm.prompt for arm in results.arms] == ["short", "short"]
    assert {way for way, _ in stub.asked} == {"rag@short", "rag+lora@short"}


def test_a_card_number_in_a_case_reaches_no_file(url: str, tmp_path: Path) -> None:
    card = "4111 1111 1111 1111"
    told = Case(id="c0", query=f"My card {card} was charged?", facts=(card,), reference=f"Not {card}.")
    results = run(url, tmp_path, cases=[told, *cases(20)[1:]])
    files = [path for path in (tmp_path / results.id).iterdir() if path.is_file()]
    assert len(files) >= 5 and not [path.name for path in files if card in path.read_text(encoding="utf-8")]
    assert read_cases(tmp_path / results.id / "cases.jsonl")[0].query == "My card <CARD_1> was charged?"


@pytest.mark.parametrize("plan", [{"primary": "fact"}, {"primary": "similarity", "prompts": ("plain", "short")}])
def test_a_metric_that_cannot_decide_is_named_before_anything_is_asked(
    url: str, stub: Any, tmp_path: Path, plan: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"unknown primary metric '(fact|similarity)'; name one of facts, "):
        run(url, tmp_path, development=cases(4), **plan)
    assert not stub.asked


def test_another_primary_metric_is_another_report(url: str, tmp_path: Path) -> None:
    assert run(url, tmp_path).id != run(url, tmp_path, primary="grounded").id


def test_one_arm_alone_cannot_be_compared(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rag: name at least two arms"):
        run(url, tmp_path, arms=("rag",))
