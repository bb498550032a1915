import json
from pathlib import Path

import pytest

from eval.cases import Case, read_cases
from retrieval.errors import InputError
from retrieval.files import sha256


def write(path: Path, *cases: object) -> Path:
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path


def test_a_case_needs_only_a_question_and_is_named_by_its_place(tmp_path: Path) -> None:
    (case,) = read_cases(write(tmp_path / "c.jsonl", {"query": "Why?", "unknown": 1}))
    assert case == Case(id="c.jsonl:1", query="Why?")
    assert case.conversation() == [{"role": "user", "content": "Why?"}]


def test_a_case_may_be_a_conversation(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    (case,) = read_cases(write(tmp_path / "c.jsonl", {"messages": messages}))
    assert case.conversation() == messages


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "case: Value error, neither 'query' nor 'messages' with one of a user is given"),
        ('{"query": "x", "lang": "fr"}', "lang: Input should be"),
        ('{"query": "x", "scope": "out"}', "scope: Input should be"),
        ("no json", "not JSON"),
    ],
)
def test_a_line_that_is_no_case_is_an_input_error_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"query": "good"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=f"{path}:3: {message}"):
        read_cases(path)


def test_a_file_without_cases_or_none_in_the_language_is_an_input_error(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"query": "x", "lang": "en"})
    with pytest.raises(InputError, match="holds no case in zh"):
        read_cases(path, lang="zh")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_cases(tmp_path / "no.jsonl")


def test_a_file_that_is_not_utf8_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"query": "\xff"}\n')
    with pytest.raises(InputError, match=r"c\.jsonl"):
        read_cases(tmp_path / "c.jsonl")


def test_a_limit_draws_the_same_cases_every_time_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", *({"query": str(n)} for n in range(100)))
    drawn = [int(case.query or "") for case in read_cases(path, limit=10)]
    assert drawn == [int(case.query or "") for case in read_cases(path, limit=10)] == sorted(drawn)
    assert len(set(drawn)) == 10
    assert len(read_cases(path, limit=1000)) == 100
    assert drawn != [int(case.query or "") for case in read_cases(path, limit=10, seed=8)]


COMPANY = Path(__file__).parents[2] / "eval" / "company"
KNOWLEDGE = Path(__file__).parents[2] / "knowledge"


def test_the_companys_cases_are_those_whose_hashes_were_committed_before_training() -> None:
    lines = (COMPANY / "SHA256SUMS").read_text().splitlines()
    hashes = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert {path.name: sha256(path) for path in COMPANY.glob("*.jsonl")} == hashes


def test_the_companys_cases_cover_every_article_and_every_kind_in_both_languages() -> None:
    cases = read_cases(sorted(COMPANY.glob("[ez]*.jsonl")))
    assert len(cases) >= 300
    named = {path for case in cases for path in case.relevant}
    assert named == {path.relative_to(KNOWLEDGE).as_posix() for path in KNOWLEDGE.glob("*/*.md")}
    kinds = {"hit", "numbers", "trap", "multi-turn", "conflict", "injection", "miss", "unanswerable"}
    for language in ("en", "zh"):
        assert {case.slice for case in cases if case.lang == language} == kinds


def test_two_cases_with_one_id_are_named_with_both_places(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"id": "one", "query": "Why?"}\n')
    with pytest.raises(InputError, match=r"b\.jsonl:1: id 'one' is that of .*a\.jsonl:1 too"):
        read_cases([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
