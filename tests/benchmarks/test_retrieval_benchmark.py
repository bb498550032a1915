from benchmarks.retrieval import Row, rows, table
from eval.cases import Case
from eval.retrieval import MEASURES, Outcome, Report


def outcome(
    name: str, hybrid: float, bm25: float, scope: str = "in", topic: str = "", decision: str = "hit"
) -> Outcome:
    values = {"hybrid": hybrid, "dense": hybrid, "bm25": bm25}
    measures = {mode: dict.fromkeys(MEASURES, value) for mode, value in values.items()} if scope == "in" else {}
    ms = dict.fromkeys(values, 1.0)
    case = Case(id=name, query="q", topic=topic)
    return Outcome(case, scope, "en", measures, decision, {"hit": 0.9, "miss": 0.1}[decision], ms)


def met(name: str, *outcomes: Outcome) -> dict[str, bool | None]:
    return {row.task.strip(): row.met for row in rows(name, Report(outcomes))}


def test_a_target_is_met_at_the_target() -> None:
    at, below = [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]
    task = "Microsoft en title → zh body, recall@5"
    assert met("microsoft_en_zh", *(outcome(str(n), value, 0) for n, value in enumerate(at))) == {task: True}
    assert met("microsoft_en_zh", *(outcome(str(n), value, 0) for n, value in enumerate(below))) == {task: False}


def test_hybrid_may_be_two_cases_worse_than_the_better_of_its_parts_but_not_three() -> None:
    same = [outcome(f"same {n}", 1.0, 1.0) for n in range(20)]
    worse = [outcome(f"worse {n}", 0.0, 1.0) for n in range(3)]
    task = "hybrid minus the better of its parts, recall@1"
    assert met("btcpay", *same, *worse[:2])[task] is True
    assert met("btcpay", *same, *worse)[task] is False


def test_the_gate_has_a_row_for_each_kind_of_far_question() -> None:
    found = met(
        "banking77",
        *(outcome(f"in {n}", 1.0, 1.0, decision="miss" if n == 0 else "hit") for n in range(20)),
        outcome("near", 0, 0, "near", decision="miss"),
        outcome("far 1", 0, 0, "far", "clinc-oos", "miss"),
        outcome("far 2", 0, 0, "far", "clinc-other", "hit"),
    )
    assert found == {
        "gate: false misses, Banking77": True,
        "gate: far caught, CLINC out of scope": True,
        "gate: far caught, CLINC other domains": False,
        "gate: far caught, both": False,
        "gate: AUROC against near, 20 intents held out": True,
    }


def test_the_table_says_what_is_met_and_what_is_not() -> None:
    lines = table(
        [Row("a", 1200, ".5", "≥ .4", True), Row("b", 3, ".3", "≥ .4", False), Row("c", 3, ".3")]
    ).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a", "1,200", ".5", "≥", ".4", "yes"],
        ["b", "3", ".3", "≥", ".4", "NO"],
        ["c", "3", ".3"],
    ]
