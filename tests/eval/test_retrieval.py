import json
from types import SimpleNamespace

import pytest

from eval.cases import Case
from eval.retrieval import MEASURES, PASSAGES, WARM_UP, Outcome, Report, evaluate, question, ranking, scope
from retrieval.errors import InputError
from retrieval.index import Query


def found(*paths: str) -> tuple[SimpleNamespace, ...]:
    return tuple(SimpleNamespace(passage=SimpleNamespace(path=path)) for path in paths)


class Shelf:
    """An index that finds the articles in the order in which the query names them; `!` is a sure question, `?` not.

    Dense search finds them backwards, BM25 finds only the last of them.
    """

    def __init__(self, *paths: str) -> None:
        self.known = set(paths)
        self.asked: list[tuple[Query, int, str | None, str]] = []

    def paths(self) -> set[str]:
        return self.known

    def search(self, asked: Query, count: int, language: str | None = None, *, mode: str = "hybrid") -> SimpleNamespace:
        query = asked.text
        self.asked.append((asked, count, language, mode))
        named = [word for word in query.split() if word in self.known]
        named = {"hybrid": named, "dense": named[::-1], "bm25": named[-1:]}[mode]
        decision, probability = ("hit", 0.9) if "!" in query else ("ambiguous", 0.5) if "?" in query else ("miss", 0.1)
        return SimpleNamespace(found=found(*named), decision=decision, probability=probability)


def case(query: str, *relevant: str, **fields: object) -> Case:
    return Case.model_validate({"id": query, "query": query, "relevant": relevant, **fields})


def test_the_documents_are_those_of_the_passages_where_they_come_first() -> None:
    assert ranking(found("a.md", "b.md", "a.md", "c.md", "b.md"), ["c.md"]) == ["a.md", "b.md", "c.md"]


def test_the_entries_of_a_relevant_list_are_one_document() -> None:
    passages = found("fees.csv#1", "cards.csv#7", "fees.csv#2", "cards.csv#9")
    assert ranking(passages, ["cards.csv"]) == ["fees.csv#1", "cards.csv", "fees.csv#2"]


def test_an_entry_that_is_relevant_itself_stays_apart_from_its_list() -> None:
    assert ranking(found("cards.csv#7", "cards.csv#9"), ["cards.csv#9"]) == ["cards.csv#7", "cards.csv#9"]


def test_a_case_is_in_scope_if_something_is_relevant_else_near_or_far() -> None:
    assert scope(case("q", "a.md")) == "in"
    assert scope(case("q", scope="near")) == "near"
    assert scope(case("q", scope="far")) == scope(case("q")) == "far"


def test_each_mode_is_measured_on_the_same_cases() -> None:
    index = Shelf("a.md", "b.md", "c.md")
    report = evaluate(index, [case("a.md b.md c.md !", "a.md"), case("b.md a.md !", "a.md")])
    data = report.as_dict()
    # hybrid: first and second; dense, backwards: third and first; BM25, the last only: not at all and first
    assert [data[mode]["recall@1"] for mode in ("hybrid", "dense", "bm25")] == [0.5, 0.5, 0.5]
    assert [data[mode]["recall@5"] for mode in ("hybrid", "dense", "bm25")] == [1.0, 1.0, 0.5]
    assert [data[mode]["mrr@10"] for mode in ("hybrid", "dense", "bm25")] == pytest.approx([3 / 4, 4 / 6, 1 / 2])
    # the gain of the only relevant document at rank r is 1 / log2(r + 1): 1, 0.631, 0.5
    assert data["dense"]["ndcg@10"] == pytest.approx((0.5 + 1) / 2)
    assert data["hybrid"]["ndcg@10"] == pytest.approx((1 + 0.63093) / 2, abs=1e-5)


def test_recall_is_the_share_of_the_relevant_documents() -> None:
    index = Shelf("a.md", "b.md", "c.md", "d.md")
    hybrid = evaluate(index, [case("a.md c.md b.md", "a.md", "b.md", "d.md", "d.md")]).as_dict()["hybrid"]
    assert hybrid["recall@1"] == pytest.approx(1 / 3) and hybrid["recall@5"] == pytest.approx(2 / 3)


def test_only_the_first_ten_documents_count() -> None:
    names = [f"{n}.md" for n in range(12)]
    index = Shelf(*names)
    data = evaluate(index, [case(" ".join(names), "9.md"), case(" ".join(names), "10.md")]).as_dict()["hybrid"]
    assert data["recall@10"] == 0.5 and data["mrr@10"] == pytest.approx(0.1 / 2)


def test_a_difference_is_in_pairs_and_of_hybrid_minus_the_other() -> None:
    cases = [case("a.md b.md", "a.md"), case("b.md a.md c.md", "b.md"), case("a.md c.md b.md", "b.md")]
    report = evaluate(Shelf("a.md", "b.md", "c.md"), cases)
    difference = report.difference("bm25", "recall@1")
    assert difference is not None
    assert (difference.mean, difference.n) == (pytest.approx(1 / 3), 3)  # right on two cases against one
    assert difference.low <= 1 / 3 <= difference.high


def test_cases_of_one_group_are_resampled_together() -> None:
    index, one = Shelf("a.md", "b.md"), [case("a.md", "a.md"), case("b.md a.md", "a.md")]
    apart = evaluate(index, one * 5).mean("hybrid", "recall@1")
    grouped = evaluate(index, [case("a.md", "a.md", group="g"), case("b.md a.md", "a.md", group="g")] * 5)
    together = grouped.mean("hybrid", "recall@1")
    assert apart is not None and apart.low < 0.5 < apart.high
    assert together is not None and (round(together.low, 2), round(together.high, 2)) == (0.05, 0.95)  # of one


def test_the_query_is_the_one_that_serving_searches_for_in_the_language_of_the_case() -> None:
    messages = [
        {"role": "user", "content": "What is a.md ?"},
        {"role": "assistant", "content": "A letter."},
        {"role": "user", "content": "And for b.md ?"},
    ]
    index = Shelf("a.md", "b.md")
    evaluate(index, [Case.model_validate({"messages": messages, "relevant": ["b.md"], "lang": "zh"})])
    assert set(index.asked) == {
        (Query("And for b.md ?", "What is a.md ? A letter. And for b.md ?"), PASSAGES, "zh", mode)
        for mode in ("hybrid", "dense", "bm25")
    }


def test_personal_data_in_a_case_is_not_searched_for() -> None:
    asked = question(case("Where is my refund to 4111 1111 1111 1111?", "a.md"))
    assert asked == Query("Where is my refund to <CARD_1>?")


def test_each_mode_is_warmed_up_before_the_clock_counts() -> None:
    index = Shelf("a.md")
    report = evaluate(index, [case("a.md", "a.md"), case("a.md !", "a.md")])
    assert len(index.asked) == 3 * (WARM_UP + 2)
    assert len(report.outcomes) == 2 and all(
        set(outcome.ms) == {"hybrid", "dense", "bm25"} for outcome in report.outcomes
    )


def test_the_gate_is_measured_on_all_cases() -> None:
    in_scope = [case("a.md !", "a.md"), case("a.md ?", "a.md"), case("a.md", "a.md"), case("x a.md !", "a.md")]
    near = [case("near !", scope="near"), case("near", scope="near")]
    far = [case("far ?", scope="far"), case("far"), case("so far"), case("farther", scope="far")]
    gate = evaluate(Shelf("a.md"), in_scope + near + far).as_dict()["gate"]
    assert gate["false_miss_rate"] == gate["ambiguous_rate"] == 1 / 4
    assert gate["false_hit_rate"] == 2 / 6
    assert (gate["near"]["n"], gate["near"]["false_hit_rate"], gate["near"]["ambiguous_rate"]) == (2, 1 / 2, 0.0)
    assert (gate["far"]["n"], gate["far"]["false_hit_rate"], gate["far"]["ambiguous_rate"]) == (4, 1 / 4, 1 / 4)
    low, high = gate["intervals"]["false_miss_rate"]
    assert 0 < low < 1 / 4 < high < 1


def test_the_gate_is_not_surer_for_ten_wordings_of_two_questions() -> None:
    alone = [case(query, "a.md", group=f"g{n}{query}") for n in range(10) for query in ("a.md", "x a.md !")]
    wordings = [case("a.md", "a.md", group="g")] * 10 + [case("x a.md !", "a.md", group="h")] * 10
    apart, grouped = (evaluate(Shelf("a.md"), each).decided("miss", "in") for each in (alone, wordings))
    assert apart is not None and grouped is not None and apart.mean == grouped.mean
    assert grouped.high - grouped.low > 2 * (apart.high - apart.low)


def test_auroc_is_how_often_a_case_in_scope_is_the_more_probable_one() -> None:
    in_scope = [case("a.md !", "a.md"), case("a.md ?", "a.md")]
    report = evaluate(Shelf("a.md"), [*in_scope, case("near ?", scope="near"), case("far", scope="far")])
    # .9 and .5 against .5: one pair won, one drawn; against .1: both won
    assert (report.auroc("near"), report.auroc("far"), report.auroc("near", "far")) == (0.75, 1.0, 0.875)


def test_latency_is_the_median_and_the_99th_percentile_in_milliseconds() -> None:
    outcomes = tuple(
        Outcome(case(str(n)), "far", "en", {}, "miss", 0.0, {"hybrid": float(n), "dense": 1.0, "bm25": 2.0})
        for n in range(101)
    )
    latency = Report(outcomes).as_dict()["latency_ms"]
    assert latency == {
        "p50": 50.0,
        "p99": 99.0,
        "dense": {"p50": 1.0, "p99": 1.0},
        "bm25": {"p50": 2.0, "p99": 2.0},
    }


def test_each_language_has_figures_of_its_own() -> None:
    cases = [case("a.md", "a.md"), case("退款 b.md a.md", "a.md"), case("b.md a.md", "a.md", lang="zh"), case("无关")]
    data = evaluate(Shelf("a.md", "b.md"), cases).as_dict()
    assert {language: (part["n"], part["n_in_scope"]) for language, part in data["languages"].items()} == {
        "en": (1, 1),
        "zh": (3, 2),
    }
    assert data["languages"]["en"]["hybrid"]["recall@1"] == 1.0
    assert data["languages"]["zh"]["hybrid"]["recall@1"] == 0.0
    assert data["languages"]["zh"]["gate"]["far"]["n"] == 1


def keys(data: dict[str, object]) -> set[str]:
    """The names of all figures, nested ones joined by dots."""
    nested = {f"{k}.{name}" for k, v in data.items() if isinstance(v, dict) for name in keys(v)}
    return {k for k, v in data.items() if not isinstance(v, dict)} | nested


def test_a_figure_that_nothing_gives_is_null_and_never_missing() -> None:
    index = Shelf("a.md")
    only_in = evaluate(index, [case("a.md", "a.md")]).as_dict()
    only_far = evaluate(index, [case("far")]).as_dict()
    assert only_in["gate"]["false_hit_rate"] is only_in["gate"]["auroc"] is only_in["gate"]["near"]["auroc"] is None
    assert only_far["hybrid"]["recall@1"] is only_far["gate"]["false_miss_rate"] is None
    for data in (only_in, only_far):
        assert {*MEASURES, "intervals"} == set(data["hybrid"])
        assert {"false_miss_rate", "false_hit_rate", "auroc", "near", "far"} <= set(data["gate"])
        json.dumps(data, allow_nan=False)


def test_a_relevant_path_that_is_not_indexed_is_counted_and_the_first_is_named() -> None:
    cases = [case("a.md", "a.md"), case("moved", "old/a.md"), case("gone", "cards.csv"), case("row", "fees.csv")]
    report = evaluate(Shelf("a.md", "fees.csv#3"), cases)
    assert report.not_indexed == (("moved", "old/a.md"), ("gone", "cards.csv"))
    assert report.as_dict()["not_indexed"] == {"paths": 2, "first": {"case": "moved", "path": "old/a.md"}}
    text = report.as_text()
    assert "2 relevant paths of cases are in no indexed document" in text and "old/a.md of case moved" in text


def test_cases_of_another_knowledge_base_are_an_input_error_before_anything_is_searched() -> None:
    index = Shelf("a.md")
    with pytest.raises(InputError, match=r"'knowledge/a\.md' of case q is the first; give paths relative to"):
        evaluate(index, [case("q", "knowledge/a.md"), case("far")])
    assert index.asked == []


def test_the_text_is_a_table_that_fits_a_terminal() -> None:
    cases = [
        *(case(f"a.md b.md {n}", "a.md", lang=lang) for n, lang in enumerate(["en", "zh"] * 10)),
        *(case(f"b.md a.md {n}", "a.md", lang=lang) for n, lang in enumerate(["en", "zh"] * 3)),
        *(case(f"near {n}!", scope="near") for n in range(4)),
        *(case(f"far {n}") for n in range(1200)),
    ]
    text = evaluate(Shelf("a.md", "b.md"), cases).as_text()
    lines = text.splitlines()
    assert lines[0] == "26 cases in scope, 4 near, 1200 far out of it"
    assert max(len(line) for line in lines) <= 100
    assert any(line.split()[:2] == ["hybrid", ".769"] for line in lines)  # 20 of 26
    assert "zh, 13 in scope" in lines
    assert any(line.split()[:5] == ["near,", "let", "through", "4", "1.00"] for line in lines)
    assert any(line.startswith("hybrid minus bm25: recall@1 +0.538 [") for line in lines)


def test_the_text_leaves_out_what_no_case_is_about() -> None:
    text = evaluate(Shelf("a.md"), [case("far")]).as_text()
    assert "recall" not in text and "near" not in text.split("gate")[1]
