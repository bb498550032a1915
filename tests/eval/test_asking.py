"""Cases asked through a service on a real port."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.answers import read_answers
from eval.asking import Asker
from eval.cases import Case
from retrieval.errors import EngineError, InputError


def cases(count: int) -> list[Case]:
    return [Case(id=f"c{n}", query=f"Question {n}?") for n in range(count)]


def test_an_answer_comes_with_its_passages_citations_and_costs(url: str, stub: Any, tmp_path: Path) -> None:
    asker = Asker(url, tmp_path)
    (answer,) = asker.ask(cases(1), ["rag"], progress=False).answers
    assert asker.memory_bytes == 1_000_000
    assert (answer.case, answer.arm, answer.text, answer.route) == ("c0", "rag", "Question 0? 9 days. ", "grounded")
    assert [(shown.path, shown.text) for shown in answer.passages] == [("en/refund.md", "Refunds take 5 days.")]
    cost = answer.cost
    assert (cost.prompt_tokens, cost.completion_tokens, cost.cpu_s) == (7, 3, 2.0)
    assert cost.first_s is not None and 0 < cost.first_s <= cost.total_s
    assert cost.between_s is not None and 0 <= cost.between_s <= cost.total_s


def test_what_was_answered_is_not_asked_again_even_under_another_id(url: str, stub: Any, tmp_path: Path) -> None:
    first = Asker(url, tmp_path).ask(cases(3), ["rag", "rag+lora"], progress=False)
    renamed = [case.model_copy(update={"id": f"other{n}"}) for n, case in enumerate(cases(3))]
    again = Asker(url, tmp_path).ask(renamed, ["rag", "rag+lora"], progress=False)
    assert len(stub.asked) == 6
    assert {a.text for a in again.answers} == {a.text for a in first.answers}
    assert set(again.of("rag")) == {"other0", "other1", "other2"}


def test_what_was_answered_is_known_by_another_name_of_the_same_way(url: str, stub: Any, tmp_path: Path) -> None:
    Asker(url, tmp_path).ask(cases(2), ["rag"], progress=False)
    again = Asker(url, tmp_path).ask(cases(2), ["rag@plain"], progress=False)
    assert len(stub.asked) == 2 and set(again.of("rag@plain")) == {"c0", "c1"}


def test_another_adapter_is_asked_again_only_where_it_answers(url: str, stub: Any, tmp_path: Path) -> None:
    Asker(url, tmp_path).ask(cases(1), ["rag", "rag+lora"], progress=False)
    stub.adapter = "adapter-2"
    Asker(url, tmp_path).ask(cases(1), ["rag", "rag+lora"], progress=False)
    assert sorted(way for way, _ in stub.asked) == ["rag", "rag+lora", "rag+lora"]


def test_a_run_that_was_cut_off_goes_on(url: str, stub: Any, tmp_path: Path) -> None:
    Asker(url, tmp_path).ask(cases(2), ["rag"], progress=False)
    (file,) = tmp_path.glob("*.jsonl")
    *lines, last = file.read_text().splitlines(keepends=True)
    whole = "".join(line for line in lines if json.loads(line)["case"] != json.loads(last)["case"]) + last
    file.write_text(whole[: len(whole) - 5])
    answers = Asker(url, tmp_path).ask(cases(2), ["rag"], progress=False).answers
    assert (len(answers), len(stub.asked)) == (2, 3)
    assert len({answer.case for answer in read_answers(file)}) == 2


def test_a_case_that_is_refused_is_counted_and_the_others_are_answered(url: str, stub: Any, tmp_path: Path) -> None:
    stub.refused.add("Question 1?")
    asked = Asker(url, tmp_path).ask(cases(3), ["rag"], progress=False)
    assert set(asked.of("rag")) == {"c0", "c2"}
    assert list(asked.failed) == [("c1", "rag")] and "too long" in asked.failed["c1", "rag"]


def test_a_case_that_is_refused_again_does_not_end_the_next_run(url: str, stub: Any, tmp_path: Path) -> None:
    """It was then the only one left to ask, and none of one case was answered: no run could be resumed."""
    stub.refused.add("Question 1?")
    for _ in range(2):
        asked = Asker(url, tmp_path).ask(cases(3), ["rag"], progress=False)
        assert set(asked.of("rag")) == {"c0", "c2"}


def test_a_service_that_went_away_ends_the_run(url: str, stub: Any, tmp_path: Path) -> None:
    asker = Asker(url, tmp_path)
    asker.url = "http://127.0.0.1:9"
    with pytest.raises(EngineError, match="nothing answers at"):
        asker.ask(cases(2), ["rag"], progress=False)


def test_an_answer_made_without_a_part_that_failed_is_no_answer_of_the_arm(url: str, stub: Any, tmp_path: Path) -> None:
    stub.degraded = ["retrieval"]
    asked = Asker(url, tmp_path).ask(cases(2), ["rag"], progress=False)
    assert asked.answers == [] and "without retrieval" in asked.failed["c0", "rag"]


def test_a_release_that_changes_ends_the_run_and_keeps_nothing_under_the_old_name(
    url: str, stub: Any, tmp_path: Path
) -> None:
    asker = Asker(url, tmp_path)
    stub.adapter = "adapter-2"
    with pytest.raises(InputError, match="another release"):
        asker.ask(cases(2), ["rag+lora"], progress=False)
    assert list(tmp_path.glob("*.jsonl")) == []


def test_other_settings_of_the_service_are_asked_again(url: str, stub: Any, tmp_path: Path) -> None:
    Asker(url, tmp_path).ask(cases(1), ["quoted"], progress=False)
    stub.answers_by = "settings-2"
    Asker(url, tmp_path).ask(cases(1), ["quoted"], progress=False)
    assert len(stub.asked) == 2


def test_what_a_model_leaks_is_told_and_not_kept(url: str, stub: Any, tmp_path: Path) -> None:
    asked = [Case(id="c", query="Is 4111 1111 1111 1111 mine?")]
    (answer,) = Asker(url, tmp_path).ask(asked, ["rag"], progress=False).answers
    assert (answer.leaked, "4111" in answer.text) == (("CARD",), False)
    assert not any("4111" in path.read_text() for path in tmp_path.glob("*.jsonl"))


def test_a_busy_service_is_asked_again(url: str, stub: Any, tmp_path: Path) -> None:
    stub.busy = 3
    assert len(Asker(url, tmp_path).ask(cases(1), ["rag"], progress=False).answers) == 1


@pytest.mark.parametrize(
    ("way", "told"), [("raag", "unknown arm 'raag'.*quoted"), ("rag@long", "no prompt 'long'; it has plain, short")]
)
def test_a_way_that_the_service_lacks_is_named(url: str, tmp_path: Path, way: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Asker(url, tmp_path).ask(cases(1), [way], progress=False)
