"""What scored answers come to: an arm with planted wrong figures, an arm against itself, slices and examples."""

import random
from dataclasses import replace

from eval.answers import Answer, Shown
from eval.cases import Case
from eval.scorers import score
from eval.summary import Answers, Scored, summary

PASSAGE = Shown("en/refund.md", "Refunds", "A refund takes 5 days. It is free of charge.")
RIGHT, WRONG = "A refund takes 5 days.", "A refund takes 7 days."


def cases(count: int = 80) -> list[Case]:
    """Four to a group, every fourth about nothing that an article says."""
    return [
        Case(
            id=f"c{n}",
            query="How long does a refund take?" if n % 4 else "Do you sell umbrellas?",
            lang="en",
            slice="hit" if n % 4 else "miss",
            relevant=("en/refund.md",) if n % 4 else (),
            facts=("5 days",) if n % 4 else (),
            answerable=bool(n % 4),
            reference=RIGHT if n % 4 else None,
            group=f"g{n // 4}",
        )
        for n in range(count)
    ]


def arm(name: str, asked: list[Case], wrong: float = 0.0, seed: int = 1) -> dict[str, Scored]:
    """Right answers but for a share of them, and an honest one where no article answers."""
    chance = random.Random(seed)
    found = {}
    for case in asked:
        said = WRONG if chance.random() < wrong else RIGHT
        text = said if case.answerable else "Our articles do not say that. I can pass you to a colleague."
        answer = Answer(case.id, name, text, "grounded", ({"n": 1, "path": "en/refund.md"},), (PASSAGE,))
        found[case.id] = Scored(answer, score(case, answer))
    return found


def results(scored: Answers, asked: list[Case], failed: list[tuple[str, str]] | None = None):
    return summary("id", "2026-11-24T00:00:00+00:00", asked, scored, {}, failed=failed or [])


def test_an_arm_against_itself_shows_no_difference() -> None:
    asked = cases()
    report = results({"rag": arm("rag", asked, 0.3), "rag+lora": arm("rag+lora", asked, 0.3)}, asked)
    assert report.verdict == "no difference"
    assert all(found.mean == 0 for found in report.comparisons[0].differences.values())
    assert (report.best, report.worst) == ([], [])


def test_two_arms_that_err_equally_often_show_no_difference() -> None:
    asked = cases()
    for seed in range(2, 7):
        report = results({"rag": arm("rag", asked, 0.3), "rag+lora": arm("rag+lora", asked, 0.3, seed)}, asked)
        assert report.verdict == "no difference", report.comparisons[0].differences["facts"]


def test_planted_wrong_figures_are_caught_by_facts_and_by_groundedness() -> None:
    asked = cases()
    report = results({"rag": arm("rag", asked), "rag+lora": arm("rag+lora", asked, wrong=0.5)}, asked)
    found = report.comparisons[0].differences
    assert report.verdict == "worse"
    assert found["facts"].high < 0 and found["grounded"].high < 0
    assert found["facts"].p_holm < 0.01 and found["grounded"].p_holm < 0.01
    assert "worse than rag" in report.sentences["en"] and "不如" in report.sentences["zh"]
    assert {shown.answers["rag+lora"].text for shown in report.worst} == {WRONG}
    assert '"5 days"' in report.worst[0].answers["rag+lora"].evidence["facts"]


def test_a_better_arm_is_said_to_be_better_with_its_interval() -> None:
    asked = cases()
    report = results({"rag": arm("rag", asked, wrong=0.5), "rag+lora": arm("rag+lora", asked)}, asked)
    assert report.verdict == "better"
    facts = report.comparisons[0].differences["facts"]
    assert f"facts {100 * facts.mean:+.1f} [" in report.sentences["en"]
    assert report.best and not report.worst


def test_a_candidate_that_makes_up_figures_where_no_article_answers_is_mixed() -> None:
    asked = cases()
    candidate = arm("rag+lora", asked)
    for case in asked:
        if not case.answerable:
            answer = Answer(case.id, "rag+lora", "Umbrellas cost 12 EUR.", "adapter")
            candidate[case.id] = Scored(answer, score(case, answer))
    report = results({"rag": arm("rag", asked, wrong=0.6), "rag+lora": candidate}, asked)
    assert report.verdict == "mixed"
    assert "abstention" in report.sentences["en"] and "该拒答时拒答" in report.sentences["zh"]


def test_too_many_cases_without_an_answer_leave_no_verdict() -> None:
    asked = cases()
    candidate = arm("rag+lora", asked)
    failed = [(case.id, "rag+lora") for case in asked[:3]]
    for case, _ in failed:
        del candidate[case]
    report = results({"rag": arm("rag", asked, 0.5), "rag+lora": candidate}, asked, failed)
    assert report.verdict == "incomplete"
    assert report.comparisons[0].differences["facts"].n == 80 * 3 // 4 - 2
    assert any("3 of 80" in finding for finding in report.findings["en"])


def test_the_primary_metric_is_shown_by_slice_route_and_language() -> None:
    asked = cases()
    report = results({"rag": arm("rag", asked, wrong=0.5), "rag+lora": arm("rag+lora", asked)}, asked)
    assert {(each.by, each.value, each.metric, each.n) for each in report.slices} == {
        ("slice", "hit", "facts", 60),
        ("slice", "miss", "abstention", 20),
        ("language", "en", "facts", 60),
    }


def test_no_more_facts_and_less_abstention_is_told_as_worse_elsewhere() -> None:
    """It read "worse: +0.0 points of answers with every fact …, n=60. abstention"."""
    asked = cases()
    candidate = arm("rag+lora", asked, 0.3)
    for case in asked:
        if not case.answerable:
            answer = Answer(case.id, "rag+lora", "Umbrellas cost 12 EUR.", "adapter")
            candidate[case.id] = Scored(answer, score(case, answer))
    report = results({"rag": arm("rag", asked, 0.3), "rag+lora": candidate}, asked)
    assert report.verdict == "worse"
    assert report.sentences["en"].startswith("rag+lora is no better than rag in facts")
    assert report.sentences["en"].endswith("significantly worse in: abstention, no invented figures.")


def test_the_deciding_metric_stands_alone_and_the_others_are_corrected_together() -> None:
    asked = cases()
    report = results({"rag": arm("rag", asked, 0.5), "rag+lora": arm("rag+lora", asked, 0.3)}, asked)
    found = report.comparisons[0].differences
    assert found["facts"].p_holm == found["facts"].p
    assert found["grounded"].p_holm > found["grounded"].p


def test_costs_of_answers_that_were_asked_in_different_runs_are_not_compared() -> None:
    asked = cases()
    baseline, candidate = arm("rag", asked), arm("rag+lora", asked)
    for scored, run in ((baseline, "yesterday"), (candidate, "today")):
        for name, each in scored.items():
            answer = replace(each.answer, cost=replace(each.answer.cost, run=run))
            scored[name] = Scored(answer, each.scores)
    assert "total" not in results({"rag": baseline, "rag+lora": candidate}, asked).comparisons[0].differences


def test_four_arms_show_whether_the_adapter_adds_more_with_passages() -> None:
    """Without passages both are wrong; with them the adapter alone is right: all of its gain needs passages."""
    asked = cases()
    wrong = {"rag": 1.0, "rag+lora": 0.0, "base": 1.0, "lora": 1.0}
    report = results({name: arm(name, asked, share) for name, share in wrong.items()}, asked)
    assert report.interaction["facts"].mean == 1.0
    assert [(each.first, each.second) for each in report.comparisons] == [
        ("rag", "rag+lora"),
        ("rag", "base"),
        ("rag", "lora"),
        ("base", "lora"),
    ]
