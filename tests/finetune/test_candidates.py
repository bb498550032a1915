import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assistant import releases
from assistant.prompt import Message
from assistant.redaction import redact_article
from assistant.settings import Settings
from eval.cases import read_cases
from finetune.candidates import Candidate, Candidates, candidates, learned, propose, write
from finetune.logs import read_logs
from finetune.turns import Turn
from retrieval.build import build
from retrieval.errors import InputError
from retrieval.index import Index

ARTICLES = {
    "refund.md": "# Refunds\n\nYou can request a refund within 90 days.\n",
    "fee.md": "# Withdrawals\n\nThe fee of a withdrawal is 2 EUR.\n",
    "card.md": "# Cards\n\nA card is ready after 5 days.\n",
    "list.csv": "question,answer\nWhat is a token?,A code of the app.\nIs there an app?,Yes there is one.\n",
}
REFUND = ("How long can I ask for a refund?", "You can request a refund within 90 days. Anything else?")
FEE = ("What do you charge when I withdraw money, is there a fee?", "The fee of a withdrawal is 2 EUR. Bye for now!")

NONE = "Sorry, bitcoin is nothing that our help centre covers."


@pytest.fixture
def index(tmp_path: Path, keywords, gate_at) -> Index:
    (tmp_path / "knowledge").mkdir()
    for name, text in ARTICLES.items():
        (tmp_path / "knowledge" / name).write_text(text)
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact_article)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    return index


def log(path: Path, *conversations: tuple[str, ...], **more: Any) -> Path:
    """Each conversation is what customer and agent said in turn."""
    lines = [
        {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)], **more}
        for said in conversations
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def made(index: Index, path: Path, trained_on: Sequence[Turn] = (), **options: Any) -> Candidates:
    return candidates(read_logs([path]), index, 3, trained_on, **options)


def only(index: Index, tmp_path: Path, *said: str) -> Candidate:
    (candidate,) = made(index, log(tmp_path / "logs.jsonl", said)).found
    return candidate


def run(settings: Settings, name: str, *questions: str) -> None:
    """A training run that learned answers to `questions`."""
    path = settings.runs / name / "data" / "turns.jsonl"
    path.parent.mkdir(parents=True)
    said = [(Message("user", text), Message("assistant", "It depends.")) for text in questions]
    turns = [Turn((question,), answer, f"old.jsonl:{n}") for n, (question, answer) in enumerate(said)]
    path.write_text("".join(json.dumps(turn.as_dict()) + "\n" for turn in turns))


def test_an_answer_that_an_article_supports_becomes_a_case_with_its_figures_as_facts(
    index: Index, tmp_path: Path
) -> None:
    candidate = only(index, tmp_path, *REFUND)
    case = candidate.case
    assert (case.query, case.reference, case.facts) == (*REFUND, ("90 days",))
    assert (case.relevant, case.scope, case.answerable, case.slice) == (("refund.md",), "in", True, "hit")
    assert (case.lang, case.group, case.held_out) == ("en", "refund.md", None)
    assert candidate.place == f"{tmp_path}/logs.jsonl:1"
    assert candidate.note.startswith("check that the question stands alone")


def test_figures_that_the_article_does_not_hold_leave_the_case_without_one(index: Index, tmp_path: Path) -> None:
    told = "You can request a refund within 90 days. The money is back after 4 weeks, at most."
    candidate = only(index, tmp_path, REFUND[0], told)
    assert (candidate.case.relevant, candidate.case.answerable) == ((), False)
    assert (candidate.case.slice, candidate.case.scope) == ("miss", "near")
    assert candidate.case.facts == ("90 days", "4 weeks")
    assert candidate.note.startswith("refund.md supports the answer but not 4 weeks: which of the two is right?")


def test_an_agent_who_finds_no_article_makes_a_miss(index: Index, tmp_path: Path) -> None:
    candidate = only(index, tmp_path, "Can I buy bitcoin?", f"{NONE} Agents are there until 22:00.")
    assert (candidate.case.slice, candidate.case.relevant, candidate.case.facts) == ("miss", (), ())
    assert "check that there is none by now" in candidate.note


def test_a_later_question_of_a_conversation_is_a_case_of_several_turns(index: Index, tmp_path: Path) -> None:
    first, second = made(index, log(tmp_path / "logs.jsonl", (*REFUND, *FEE))).found
    assert (first.case.query, first.case.slice) == (REFUND[0], "hit")
    assert second.case.slice == "multi-turn"
    assert [message.content for message in second.case.messages] == [*REFUND, FEE[0]]
    assert (second.case.relevant, second.case.facts) == (("fee.md",), ("2 EUR",))


def test_a_figure_of_the_customer_is_pointed_out(index: Index, tmp_path: Path) -> None:
    candidate = only(index, tmp_path, "Can I ask for a refund after 80 days?", f"Yes, 80 days is fine. {REFUND[1]}")
    assert "the conversation states 80 days itself" in candidate.note
    assert candidate.case.facts == ("80 days", "90 days")


def test_near_duplicates_are_one_case_and_the_newest_answer_stands(index: Index, tmp_path: Path) -> None:
    again = (f"Hello! {REFUND[0]}", "Of course. You can request a refund within 90 days, Sir.")
    lines = log(tmp_path / "a.jsonl", REFUND, at="2026-01-01T00:00:00Z").read_text()
    lines += log(tmp_path / "b.jsonl", again, at="2026-02-01T00:00:00Z").read_text()
    (tmp_path / "logs.jsonl").write_text(lines)
    found = made(index, tmp_path / "logs.jsonl")
    assert [candidate.case.query for candidate in found.found] == [again[0]]
    assert (found.counts["answers from logs"], found.counts["answers: near duplicates"]) == (2, 1)


def test_what_training_would_not_learn_is_no_case(index: Index, tmp_path: Path) -> None:
    path = log(tmp_path / "logs.jsonl", REFUND, (FEE[0], "As an AI, I cannot help with that."), (FEE[0], "Hello!"))
    with path.open("a") as file:
        file.write("no json\n")
    found = made(index, path)
    assert len(found.found) == 1
    assert found.counts["conversations: malformed"] == found.counts["answers: refusal"] == 1


def test_a_twin_of_what_the_live_adapter_learned_is_left_out(index: Index, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    assert learned(settings) == []
    run(settings, "r1", f"Hi, {REFUND[0]}", "Where is my money?")
    (settings.adapters / "a1").mkdir(parents=True)
    (settings.adapters / "a1" / "training.json").write_text('{"run": "r1"}')
    releases.publish(settings.releases, adapter="a1", base="b", prompt="p")
    found = made(index, log(tmp_path / "logs.jsonl", REFUND, FEE), learned(settings))
    assert [candidate.case.query for candidate in found.found] == [FEE[0]]
    assert found.counts["answers: twins of training"] == 1
    assert found.found[0].case.held_out == "wording"
    assert learned(settings, "r1") == learned(settings)


def test_logs_that_were_all_trained_on_make_no_case(index: Index, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    run(settings, "r1", REFUND[0])
    with pytest.raises(InputError, match=r"no answer in the logs makes a case \(.*1 answers: twins of training\)"):
        made(index, log(tmp_path / "logs.jsonl", REFUND), learned(settings, "r1"))


def test_a_run_whose_data_are_gone_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r9/data/turns\.jsonl does not exist.*--training none"):
        learned(Settings(home=tmp_path), "r9")


def test_a_card_number_of_the_logs_is_in_no_file(index: Index, tmp_path: Path) -> None:
    said = (f"My card is 4111 1111 1111 1111. {REFUND[0]}", REFUND[1])
    found = made(index, log(tmp_path / "logs.jsonl", said))
    todo = write(found, tmp_path / "cases.jsonl")
    assert "1111" not in (tmp_path / "cases.jsonl").read_text() + todo.read_text()
    assert read_cases(tmp_path / "cases.jsonl")[0].query == f"My card is <CARD_1>. {REFUND[0]}"


def test_what_is_written_reads_back_as_the_cases(index: Index, tmp_path: Path) -> None:
    chinese = ("退款要多久？", "退款一般需要三天到账，请您耐心等待一下，谢谢。")
    found = made(index, log(tmp_path / "logs.jsonl", (*REFUND, *FEE), chinese))
    write(found, tmp_path / "cases.jsonl")
    assert read_cases(tmp_path / "cases.jsonl") == [candidate.case for candidate in found.found]
    assert [case.lang for case in read_cases(tmp_path / "cases.jsonl")] == ["en", "en", "zh"]
    first = json.loads((tmp_path / "cases.jsonl").read_text().splitlines()[0])
    assert first["note"] == found.found[0].note and first["place"] == found.found[0].place


def test_articles_without_a_candidate_and_topics_with_few_are_listed_for_people(index: Index, tmp_path: Path) -> None:
    todo = write(made(index, log(tmp_path / "logs.jsonl", REFUND)), tmp_path / "cases.jsonl")
    text = todo.read_text()
    assert todo.name == "cases.jsonl.todo.md"
    assert "- `card.md`: Cards\n- `fee.md`: Withdrawals\n- `list.csv`: 2 entries\n\n" in text
    assert "refund.md" not in text
    assert "## 1 topics with fewer than 5 candidates" in text and text.endswith("| 1 | 1 |\n")


def test_edited_files_are_not_replaced_unless_forced(index: Index, tmp_path: Path) -> None:
    found = made(index, log(tmp_path / "logs.jsonl", REFUND))
    out = tmp_path / "cases.jsonl"
    todo = write(found, out)
    out.write_text("edited")
    with pytest.raises(InputError, match=r"cases\.jsonl exists, and may have been edited"):
        write(found, out)
    out.unlink()
    with pytest.raises(InputError, match=r"cases\.jsonl\.todo\.md exists"):
        write(found, out)
    assert not out.exists()
    assert write(found, out, force=True) == todo and len(read_cases(out)) == 1


def test_the_command_writes_both_files_and_tells_the_counts(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.candidates.open_live", lambda settings: index)
    settings, out = Settings(home=tmp_path / "home"), tmp_path / "cases.jsonl"
    run(settings, "r1", REFUND[0])
    logs = [log(tmp_path / "logs.jsonl", REFUND, FEE)]
    said: list[str] = []
    propose(settings, logs, out, said.append, training="r1")
    assert [case.query for case in read_cases(out)] == [FEE[0]]
    assert "       1 answers: twins of training" in said and "       1 candidates" in said
    assert said[-1] == f"candidates for people to check: {out}; what is left to write: {out}.todo.md"
    propose(settings, logs, out, said.append, training="none", force=True)
    assert len(read_cases(out)) == 2
    assert "compared with no training run: a candidate may be what an adapter was trained on" in said


def test_an_existing_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text("edited")
    with pytest.raises(InputError, match="may have been edited"):
        propose(Settings(home=tmp_path / "home"), [tmp_path / "no.jsonl"], tmp_path / "cases.jsonl", print)


def test_a_limit_draws_the_same_candidates_every_time(index: Index, tmp_path: Path) -> None:
    asked = ["Where is my money?", "Can I cancel?", "Who pays for this?", "Is it safe abroad?", "Why so slow?"]
    path = log(tmp_path / "logs.jsonl", *((text, f"{text[:-1]} is what many ask us these days.") for text in asked))
    drawn = made(index, path, limit=3)
    assert len(drawn.found) == 3 and drawn.counts["answers: beyond the limit"] == 2
    assert drawn == made(index, path, limit=3)
    assert drawn != made(index, path, limit=3, seed=8)
