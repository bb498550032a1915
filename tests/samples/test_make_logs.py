import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.logs import Conversation, read_logs

ROOT = Path(__file__).parent.parent.parent
SCRIPT = runpy.run_path(str(ROOT / "samples" / "make_logs.py"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    SCRIPT["write"](folder)
    return folder


@pytest.fixture(scope="module")
def logs(sample: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((sample / "logs").iterdir()) for line in path.open(encoding="utf-8")]


@pytest.fixture(scope="module")
def cases(sample: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (sample / "cases.jsonl").open(encoding="utf-8")]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(sample: Path, tmp_path: Path) -> None:
    SCRIPT["write"](tmp_path / "again")
    SCRIPT["write"](tmp_path / "other", seed=8)
    assert bytes_of(tmp_path / "again") == bytes_of(sample)
    assert bytes_of(tmp_path / "other")["logs/2026-10-20.jsonl"] != bytes_of(sample)["logs/2026-10-20.jsonl"]


def test_there_are_1500_conversations_or_more_over_30_days_in_both_languages(
    sample: Path, logs: list[dict[str, Any]]
) -> None:
    assert len(logs) >= 1500
    assert len(list((sample / "logs").iterdir())) == 30
    languages = Counter(line["lang"] for line in logs)
    assert set(languages) == {"en", "zh"} and min(languages.values()) > 0.4 * len(logs)


def test_every_line_is_in_the_log_format(sample: Path) -> None:
    assert all(isinstance(entry, Conversation) for entry in read_logs([sample / "logs"]))


def test_lines_stand_in_the_file_of_their_day_in_order(sample: Path) -> None:
    for path in (sample / "logs").iterdir():
        times = [json.loads(line)["at"] for line in path.open(encoding="utf-8")]
        assert {time[:10] for time in times} == {path.stem}
        assert times == sorted(times)


def test_no_question_of_a_case_occurs_in_any_log(logs: list[dict[str, Any]], cases: list[dict[str, Any]]) -> None:
    """Nor with a greeting before it or a note behind it."""
    logged = "\n".join(message["content"] for line in logs for message in line["messages"])
    assert [case["id"] for case in cases if case["query"] in logged] == []


def test_held_out_policies_never_occur_in_the_logs(logs: list[dict[str, Any]], cases: list[dict[str, Any]]) -> None:
    held_out = {case["group"] for case in cases if case["held_out"] == "policy" and case["scope"] == "in"}
    assert len(held_out) == 9  # every fifth of 44, beginning with the first
    said = {message["content"] for line in logs for message in line["messages"] if message["role"] == "assistant"}
    for policy in held_out:
        source = yaml.safe_load((ROOT / "samples" / "conversations" / f"{policy}.yaml").read_text(encoding="utf-8"))
        for intent in source["intents"]:
            for language in ("en", "zh"):
                texts = intent[language]
                assert not {*texts["answers"], texts["unhelpful"], texts["followup"]["answer"]} & said


def test_cases_of_a_seen_policy_ask_in_wordings_that_were_held_out(cases: list[dict[str, Any]]) -> None:
    kinds = Counter(case["held_out"] for case in cases if case["scope"] == "in")
    assert set(kinds) == {"wording", "policy"}
    assert len({case["id"] for case in cases}) == len(cases)


def test_every_case_names_an_article_that_is_there_and_facts_that_its_reference_or_article_holds(
    cases: list[dict[str, Any]],
) -> None:
    from eval.cases import Case
    from eval.scorers import facts_present

    missing = []
    for line in cases:
        case = Case.model_validate(line)
        articles = [(ROOT / "knowledge" / path).read_text(encoding="utf-8") for path in case.relevant]
        text = " ".join([case.reference or "", *articles]).replace("**", "")
        if facts_present(case, text) is False:
            missing.append(case.id)
    assert missing == []


def test_the_logs_hold_what_the_cleaning_must_find(logs: list[dict[str, Any]]) -> None:
    text = "\n".join(message["content"] for line in logs for message in line["messages"])
    assert any(card in text for card in SCRIPT["CARDS"])
    assert any(line["resolved"] is False for line in logs) and any(line["rating"] in (1, 2) for line in logs)
    pairs = Counter(json.dumps(line["messages"]) for line in logs)
    assert max(pairs.values()) > 1
