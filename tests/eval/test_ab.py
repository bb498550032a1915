import json
from pathlib import Path

import numpy as np
import pytest

from eval import ab
from eval.ab import Answer, Difference, Report, clustered_difference, compare
from eval.cases import Case
from retrieval.errors import InputError


def answer(arm: str, n: int, facts: bool | None, group: str | None = None, route: str = "grounded") -> Answer:
    scores = {"facts": facts, "cited": None, "no invented figures": None, "right language": True}
    return Answer(Case(id=f"c{n}", query="Why?", group=group), arm, "So.", {"route": route}, scores, float(n))


def test_identical_arms_differ_by_exactly_zero() -> None:
    assert clustered_difference([[0.0, 0.0], [0.0], [0.0, 0.0, 0.0]]) == Difference(0.0, 0.0, 0.0, 6)


def test_the_difference_is_the_mean_over_cases_not_over_groups() -> None:
    difference = clustered_difference([[1.0], [0.0, 0.0, 0.0]])
    assert difference.mean == 0.25
    assert difference.low <= 0.25 <= difference.high and difference.n == 4


def test_the_same_data_give_the_same_interval() -> None:
    groups = [[1.0, 0.0], [0.0], [-1.0, 1.0], [1.0]]
    assert clustered_difference(groups) == clustered_difference(groups)


def test_copies_of_a_case_in_its_group_do_not_narrow_the_interval() -> None:
    groups = [[float(n % 3 - 1)] for n in range(12)]
    one, ten = clustered_difference(groups), clustered_difference([group * 10 for group in groups])
    assert (one.mean, one.low, one.high) == pytest.approx((ten.mean, ten.low, ten.high))


def test_the_interval_covers_a_known_mean_about_95_times_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 groups of 1 to 5 cases that share half of their variance, around a mean of 0.2."""
    monkeypatch.setattr(ab, "RESAMPLES", 400)
    covered = 0
    for seed in range(200):
        chance = np.random.default_rng(seed)
        groups = [list(0.2 + chance.normal() + chance.normal(size=chance.integers(1, 6))) for _ in range(40)]
        difference = clustered_difference(groups)
        covered += difference.low <= 0.2 <= difference.high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_report_compares_the_last_arm_with_the_first_on_cases_scored_in_both() -> None:
    report = Report(
        ("rag", "lora"),
        (
            *(answer("rag", n, facts) for n, facts in enumerate([False, True, None, True])),
            *(answer("lora", n, facts) for n, facts in enumerate([True, True, True, None])),
        ),
    )
    difference = report.difference("facts")
    assert difference is not None
    assert (difference.mean, difference.n) == (0.5, 2)
    assert report.rate("rag", "facts") == (2 / 3, 3)
    assert report.rate("rag", "cited") == (None, 0)
    assert report.difference("cited") is None


def test_one_group_alone_gives_no_interval() -> None:
    report = Report(("rag", "lora"), tuple(answer(arm, n, True, "one") for arm in ("rag", "lora") for n in range(3)))
    assert report.difference("facts") is None


def test_a_report_is_text_json_and_lines(tmp_path: Path) -> None:
    report = Report(("rag", "lora"), tuple(answer(arm, n, True) for arm in ("rag", "lora") for n in range(3)))
    text = report.as_text()
    assert "1.000 (n=3)" in text and "+0.000 [+0.000, +0.000]" in text
    assert "rag: 3 grounded; median 1.0 s an answer" in text
    data = report.as_dict()
    assert data["arms"]["rag"]["scores"]["facts"] == {"mean": 1.0, "n": 3}
    assert data["differences"]["facts"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 3}
    report.write_answers(tmp_path / "answers.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(line["id"], line["arm"]) for line in lines[:2]] == [("c0", "rag"), ("c1", "rag")]


def test_a_report_in_json_is_json_although_a_score_applies_to_no_case() -> None:
    """`NaN` is no JSON: other programs refuse the whole report."""
    report = Report(("rag",), (answer("rag", 0, True),))
    json.dumps(report.as_dict(), allow_nan=False)


def test_every_arm_is_asked_every_case_as_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def complete(url: str, model: str, messages: list[dict[str, str]], key: str | None) -> dict[str, object]:
        asked.append((model, messages[-1]["content"]))
        reply = {"choices": [{"message": {"content": "So."}}], "assistant": {"citations": [], "route": "adapter"}}
        return reply

    monkeypatch.setattr(ab, "complete", complete)
    report = compare([Case(id="1", query="a"), Case(id="2", query="b")], ["rag", "base"], "http://x")
    assert sorted(asked) == [(f"assistant:{arm}", text) for arm in ("base", "rag") for text in ("a", "b")]
    assert [(answer.case.id, answer.arm) for answer in report.answers] == [
        *(("1", "rag"), ("1", "base")),
        *(("2", "rag"), ("2", "base")),
    ]


def test_an_unknown_arm_is_an_input_error_before_anything_is_asked() -> None:
    with pytest.raises(InputError, match="unknown arm 'lora\\+rag'; the arms are rag, rag\\+lora, base, lora"):
        compare([Case(query="a")], ["rag", "lora+rag"], "http://127.0.0.1:1")
