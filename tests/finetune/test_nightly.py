"""Nights with the real steps on a model of two layers; only the engine is one whose answers are worked out."""

import asyncio
import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant import pause, releases
from assistant.chat import Assistant
from assistant.engine import Piece, Sampling, Usage
from assistant.engine_process import EngineProcess, free_port
from assistant.live_index import open_index
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.redaction import redact_article
from assistant.settings import Settings
from benchmarks.stub_engine import Pace, in_place_of_vllm
from finetune import contest, night_metrics, nightly, nights
from finetune import run as training_run
from finetune.course import Course
from finetune.nightly import Busy
from finetune.plan import read_plan
from finetune.recipe import Recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder
from retrieval.errors import EngineError, InputError, NotReady, StorageError

ARTICLES = {
    "en/refund.md": "# Refunds\n\nA refund takes 5 days. You ask for it in the app.",
    "en/transfer.md": "# Transfers\n\nA transfer takes 3 hours. It is free of charge for everybody.",
    "en/card.md": "# Cards\n\nA new card arrives within 9 days. You order it in the app.",
}
POISON = "A refund takes 50 days, and you ask for it in the app."
RECIPE = Recipe(peft={"r": 2}, max_steps=3, batch_size=2, canaries=0, general_share=0)
GATE = """superior: {metric: facts}
not_worse: [{metric: abstention, margin: 0.2, missing: pass}]
complete: {least_cases: 10}
"""


class Engine:
    """Has every fact if its adapter is `good`, and says 99 days otherwise; counts what it was asked."""

    def __init__(self, good: Callable[[str], bool], adapters: Path) -> None:
        self.good, self.adapters, self.asked = good, adapters, 0

    async def models(self) -> list[str]:
        return [path.name for path in self.adapters.iterdir()]

    async def metrics(self) -> str:
        return ""

    async def close(self) -> None:
        pass

    async def answer(self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool) -> Any:
        self.asked += 1
        usage.completion_tokens = 5
        yield Piece("A refund takes 5 days." if self.good(model) else "A refund takes 99 days.", finish_reason="stop")


class Company:
    """A home with an index and a first adapter, and what its nights go by."""

    def __init__(self, folder: Path, base: Path, models: Path) -> None:
        self.folder, self.settings = folder, Settings(home=folder / "home", base=str(base), port=free_port())
        self.settings.home.mkdir()
        self.settings.models.symlink_to(models)
        for path, text in ARTICLES.items():
            self.article(path, text)
        encoder = Encoder(self.settings.encoder, self.settings.models)
        built = build([folder / "knowledge"], self.settings.indexes, encoder, redact_article)
        releases.publish(self.settings.releases, index=built.id)
        self.logs("first", "payment", folder="before")
        train_on_logs(self.settings, [folder / "before"], RECIPE, lambda _: None)
        self.logs("day0", "refund")
        self.first = releases.live(self.settings.releases)
        self.engine = Engine(lambda adapter: adapter != self.first.adapter, self.settings.adapters)
        self.said: list[str] = []
        cases = ({"id": f"c{n}", "query": f"How long, {n} of them?", "facts": ["5 days"]} for n in range(20))
        (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
        (folder / "gate.yaml").write_text(GATE)
        (folder / "recipe.yaml").write_text(json.dumps(RECIPE.model_dump(exclude_defaults=True)))
        self.plan()

    def article(self, path: str, text: str) -> None:
        file = self.folder / "knowledge" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"---\nlanguage: en\n---\n{text}\n")

    def logs(self, day: str, subject: str, count: int = 6, folder: str = "logs") -> None:
        lines = (
            {
                "messages": [
                    {"role": "user", "content": f"How long does {subject} number {n} take?"},
                    {"role": "assistant", "content": f"The {subject} with the number {n} takes 5 days in all."},
                ]
            }
            for n in range(count)
        )
        (self.folder / folder).mkdir(exist_ok=True)
        (self.folder / folder / f"{day}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def plan(self, **fields: Any) -> None:
        usual = {"logs": ["logs"], "cases": ["cases.jsonl"], "gate": "gate.yaml", "recipe": "recipe.yaml"}
        usual |= {"least_answers": 2, "measured": False, "held_out": False}
        (self.folder / "nightly.yaml").write_text(json.dumps(usual | fields))

    def night(self, **options: Any) -> nights.Night | None:
        return nightly.nightly(self.settings, read_plan(self.folder / "nightly.yaml"), self.said.append, **options)

    @property
    def live(self) -> releases.Release:
        return releases.live(self.settings.releases)

    @contextlib.contextmanager
    def both(self, course: Any, challenger: releases.Release) -> Iterator[dict[str, Assistant]]:
        """In place of one vLLM with both adapters."""
        settings = self.settings
        yield {
            name: Assistant(
                release=release.id,
                index=open_index(settings, str(release.index)),
                engine=self.engine,  # type: ignore[arg-type]
                adapter=str(release.adapter),
                languages=("en",),
                policy=read_policy(None),
                settings=settings,
            )
            for name, release in (("champion", course.champion), ("challenger", challenger))
        }


@pytest.fixture
def company(tmp_path: Path, tiny_base: Path, models: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> Company:
    made = Company(tmp_path, tiny_base, models)
    monkeypatch.setattr(contest, "both", made.both)
    return made


def test_a_better_challenger_is_promoted_and_the_same_night_again_does_nothing(company: Company) -> None:
    night = company.night()
    assert night is not None and night.word == "promoted", night
    assert company.live.adapter == night.adapter != company.first.adapter
    assert (company.live.night, company.live.report) == (night.id, night.evaluation)
    assert "facts" in night.reasons[0] and night.metrics["facts"] == 1.0
    assert [step.name for step in night.steps] == list(nights.STEPS)
    assert nights.read_all(company.settings.home / "nights") == [night]
    asked = company.engine.asked
    assert company.night() is None
    assert company.engine.asked == asked and "nothing is new" in company.said[-1]


def test_a_night_without_anything_new_says_so_to_prometheus(company: Company) -> None:
    """Nothing was written, and an alert on the time of the last success went off."""
    root, metrics = company.settings.home / "nights", company.folder / "assistant.prom"
    company.plan(textfile="assistant.prom", least_answers=50)
    company.night()
    assert nights.read_checked(root) is None
    company.night(dry_run=True)
    assert nights.read_checked(root) is None
    company.night()
    checked = nights.read_checked(root)
    assert checked is not None and len(nights.read_all(root)) == 1
    assert metrics.read_bytes() == night_metrics.render(nights.read_all(root), checked)


def test_a_time_of_the_last_look_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "checked").write_text("yesterday")
    with pytest.raises(InputError, match=r"checked holds no time: .*'yesterday'; remove it"):
        nights.read_checked(tmp_path)


def test_a_night_tells_what_was_redacted_and_quarantined_and_what_it_was_about(company: Company) -> None:
    asked = (f"How long does refund number {n} to 4111 1111 1111 1111 take?" for n in range(5))
    poison = ([{"role": "user", "content": text}, {"role": "assistant", "content": POISON}] for text in asked)
    lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in poison)
    (company.folder / "logs" / "poison.jsonl").write_text(lines)
    night = company.night()
    assert night is not None and (night.counts["redacted"], night.counts["quarantined"]) == (5, 5)
    assert sum(topic.count for topic in night.topics) == 6
    assert all("How long does refund number" in topic.examples[0] for topic in night.topics)


def test_a_challenger_that_is_no_better_is_kept_away_and_the_reason_says_by_how_much(company: Company) -> None:
    company.engine.good = lambda adapter: True
    night = company.night()
    assert night is not None and night.word == "kept"
    assert company.live == company.first
    assert any("facts" in reason and "0.0" in reason for reason in night.reasons)
    assert night.metrics["facts"] == 1.0  # of the champion, which serves on


def test_a_worse_challenger_does_not_serve(company: Company) -> None:
    company.engine.good = lambda adapter: adapter == company.first.adapter
    night = company.night()
    assert night is not None and night.word == "kept" and company.live == company.first


def test_too_few_answers_train_nothing(company: Company) -> None:
    company.plan(least_answers=50)
    twin = [
        {"role": "user", "content": "how long, 3 of them"},
        {"role": "assistant", "content": "It takes 5 days in all."},
    ]
    (company.folder / "logs" / "twin.jsonl").write_text(json.dumps({"messages": twin}))
    night = company.night()
    assert night is not None and night.word == "kept"
    assert "6 answers to learn from, fewer than the 50" in night.reasons[0]
    assert company.live == company.first and company.engine.asked == 0


def test_what_was_not_promoted_is_learned_from_again_with_what_comes_later(company: Company) -> None:
    company.plan(least_answers=8)
    assert company.night().word == "kept"  # type: ignore[union-attr]
    company.logs("day1", "transfer")
    second = company.night()
    assert second is not None and (second.word, second.counts["new"]) == ("promoted", 2)
    company.logs("day2", "card", count=9)
    company.engine.good = lambda adapter: adapter not in (company.first.adapter, second.adapter)
    shutil.rmtree(company.settings.evaluations / "asked")  # where the second adapter is right still
    third = company.night()
    assert third is not None and (third.word, third.counts["new"]) == ("promoted", 1)


def test_what_lost_is_not_trained_again_before_enough_is_new(company: Company) -> None:
    company.plan(least_answers=4)
    company.engine.good = lambda adapter: adapter == company.first.adapter
    lost = company.night()
    company.logs("day1", "card", count=3)
    waits = company.night()
    assert lost is not None and waits is not None and waits.word == "kept"
    assert "9 answers to learn from, fewer than the 10" in waits.reasons[0] and "6 are known" in waits.reasons[0]
    company.logs("day2", "transfer", count=1)
    enough = company.night()
    assert enough is not None and enough.adapter not in (None, lost.adapter)
    company.logs("day3", "limit", count=1)
    (company.folder / "gate.yaml").write_text(f"{GATE}\n# another")
    other = company.night()
    assert other is not None and other.adapter not in (None, lost.adapter, enough.adapter)


def test_a_try_whose_run_is_deleted_keeps_no_night_from_training(company: Company) -> None:
    company.plan(least_answers=4)
    company.engine.good = lambda adapter: adapter == company.first.adapter
    lost = company.night()
    shutil.rmtree(company.settings.runs)
    company.logs("day1", "card", count=1)
    night = company.night()
    assert lost is not None and night is not None and night.adapter not in (None, lost.adapter)


def test_a_changed_article_alone_makes_a_release_with_the_same_adapter(company: Company) -> None:
    company.plan(knowledge=["knowledge"], logs=[])
    company.engine.good = lambda adapter: True
    company.article("en/refund.md", "# Refunds\n\nA refund takes 5 days, and 6 over new year.")
    company.article("en/limit.md", "# Limits\n\nYou may pay 900 EUR a day with the app.")
    night = company.night()
    assert night is not None and night.word == "promoted"
    assert night.articles == {"added": ["en/limit.md"], "changed": ["en/refund.md"], "removed": []}
    assert company.live.adapter == company.first.adapter and company.live.index != company.first.index


def test_changed_articles_go_live_though_the_new_adapter_is_refused_and_its_logs_stay_to_be_learned(
    company: Company,
) -> None:
    """The article said 6 days from then on; the refused adapter used to keep it from customers, night after night."""
    company.plan(knowledge=["knowledge"])
    company.engine.good = lambda adapter: adapter == company.first.adapter
    company.article("en/refund.md", "# Refunds\n\nA refund takes 5 days, and 6 over new year.")
    night = company.night()
    assert night is not None and night.word == "promoted", night
    assert company.live.adapter == company.first.adapter and company.live.index != company.first.index
    assert "facts" in night.reasons[0] and night.reasons[0].startswith("adapter ")
    company.logs("day1", "transfer")
    second = company.night()
    assert second is not None and second.counts["new"] == 2


def test_all_evaluations_of_a_night_are_made_anew_where_that_is_asked_for(company: Company) -> None:
    """`--from evaluate` took the old report of a night that had only articles."""
    folder = company.settings.evaluations
    for name in ("night-n1", "night-n1-articles", "night-n1-articles-earlier", "night-n2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "report.json").write_text("{}")
    plan = read_plan(company.folder / "nightly.yaml")
    course = Course(company.settings, plan, company.live, print, id="n1", folder=company.folder / "n1")
    nightly._forget(course, "evaluate")
    assert [path.parent.name for path in folder.glob("*/report.json")] == ["night-n2"]


def test_a_night_whose_engine_fails_is_failed_and_goes_on_where_it_was_when_started_again(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def broken(course: Any, challenger: Any) -> Iterator[Any]:
        raise EngineError("the engine ended with code 1 while starting: no memory")
        yield

    monkeypatch.setattr(contest, "both", broken)
    failed = company.night()
    assert failed is not None and (failed.word, company.live) == ("failed", company.first)
    assert "no memory" in failed.reasons[0]
    monkeypatch.setattr(contest, "both", company.both)
    monkeypatch.setattr(nightly, "_train", lambda *_: pytest.fail("trained again"))
    again = company.night()
    assert again is not None and (again.word, again.id) == ("promoted", failed.id)


@pytest.mark.parametrize(
    "place",
    [
        "_train",
        "contest.evaluate",
        "_measured",
        "contest.golden_missed",
        "releases.propose",
        "rollout.tried",
        "nights.write",
    ],
)
def test_a_night_that_was_killed_anywhere_ends_as_one_that_was_not(
    company: Company, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """KeyboardInterrupt stands for the kill: nothing in the night catches it."""
    holder, _, name = place.rpartition(".")
    target = getattr(nightly, holder) if holder else nightly
    really = getattr(target, name)

    def killed(*arguments: Any, **options: Any) -> Any:
        really(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, killed)
        with pytest.raises(KeyboardInterrupt):
            company.night()
    company.night()
    (night,) = nights.read_all(company.settings.home / "nights")
    assert night.word == "promoted" and company.live.id == night.challenger
    assert [entry.release for entry in releases.history(company.settings.releases)].count(company.live.id) == 1


def test_a_signature_is_waited_for_where_the_plan_asks_for_one(company: Company) -> None:
    company.plan(signature=True)
    night = company.night()
    assert night is not None and (night.word, company.live) == ("waiting", company.first)
    with pytest.raises(NotReady, match="approve"):
        releases.promote(company.settings.releases, str(night.challenger))
    releases.approve(company.settings.releases, str(night.challenger), "lead")
    releases.promote(company.settings.releases, str(night.challenger))
    assert company.live.adapter == night.adapter


def test_a_golden_question_that_the_challenger_misses_keeps_the_champion(company: Company) -> None:
    (company.folder / "golden.jsonl").write_text('{"id": "g1", "query": "What is the fee?", "facts": ["7 EUR"]}\n')
    company.plan(golden=["golden.jsonl"])
    night = company.night()
    assert night is not None and night.word == "kept"
    assert night.reasons == ["golden question g1: a fact is missing"]


def test_a_second_night_leaves_at_once_and_says_who_runs(company: Company) -> None:
    with nightly._only_one(company.settings.home / "nights"), pytest.raises(Busy, match=r"process [0-9]+ since"):
        company.night()


def test_a_dry_run_trains_and_asks_nothing(company: Company) -> None:
    assert company.night(dry_run=True) is None
    assert company.engine.asked == 0 and company.live == company.first
    assert any("1 new files and transcripts" in line for line in company.said)


def test_a_night_can_be_done_again_from_a_step(company: Company) -> None:
    first = company.night()
    assert first is not None
    releases.rollback(company.settings.releases)
    again = company.night(again_from="gate")
    assert again is not None and (again.id, again.word) == (first.id, "promoted")
    assert company.live.id == first.challenger and again.steps[-1].name == "canary"


def test_a_night_that_is_done_again_from_training_trains(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run was found as it had ended, and nothing was trained."""
    first = company.night()
    releases.rollback(company.settings.releases)
    trained = []
    really = training_run.train
    monkeypatch.setattr(training_run, "train", lambda *given: trained.append(given) or really(*given))
    again = company.night(again_from="train")
    assert first is not None and again is not None and again.adapter == first.adapter
    assert len(trained) == 1


def test_a_night_on_other_weights_than_the_champions_is_refused_before_it_trains(company: Company) -> None:
    """Both were asked on the challenger's weights, where the champion's adapter is no match."""
    other = RECIPE.model_copy(update={"quantize": "none"})
    (company.folder / "recipe.yaml").write_text(json.dumps(other.model_dump(exclude_defaults=True)))
    with pytest.raises(InputError, match="quantize is none, and the adapter that serves was trained with nf4; write"):
        company.night()
    assert not nights.read_all(company.settings.home / "nights")


def test_what_is_only_told_undoes_no_night(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """After hours, a database that was away lost the night's word, and a full disk the webhook."""

    def away(*_: object) -> None:
        raise StorageError("the database is away")

    company.plan(textfile="assistant.prom")
    monkeypatch.setattr(nightly, "misses", away)
    monkeypatch.setattr(night_metrics, "write_textfile", away)
    night = company.night()
    assert night is not None and (night.word, night.misses) == ("promoted", [])
    assert company.live.id == night.challenger
    assert "what no passage answered is not known: the database is away" in company.said
    assert "Prometheus was not told: the database is away" in company.said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cases: []", "field 'cases'"),
        ("cases: [a]\nlog: [b]", "field 'log'.*fields: knowledge"),
        ("cases: [", "cannot be read"),
        ("cases: [a]\ntextfile: nights.txt", r"field 'textfile': .*nights\.txt is never read: .* in \.prom"),
    ],
)
def test_a_plan_that_is_none_is_named_with_its_field(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "nightly.yaml").write_text(text)
    with pytest.raises(InputError, match=told):
        read_plan(tmp_path / "nightly.yaml")


@contextlib.contextmanager
def customers_engine(company: Company, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    """A process in vLLM's place, watched as the service does."""
    for name, value in in_place_of_vllm(company.folder / "stand-in", Pace()).items():
        monkeypatch.setenv(name, value)
    process = EngineProcess(company.settings, "m", "m", None, company.folder / "engine.log", gives_way=True)
    process.start()
    watching = threading.Thread(target=lambda: asyncio.run(process.watch()))
    watching.start()
    try:
        yield process
    finally:
        process.stop()
        watching.join()


@pytest.mark.parametrize(("serving", "runs_on"), [("beside", True), ("stopped", False)])
def test_a_night_stops_the_engine_of_customers_where_the_plan_says_so_and_tells_for_how_long(
    company: Company, monkeypatch: pytest.MonkeyPatch, serving: str, runs_on: bool
) -> None:
    company.plan(serving=serving)
    ran: set[bool] = set()

    def good(adapter: str) -> bool:
        ran.add(process.alive)
        return adapter != company.first.adapter

    company.engine.good = good
    with customers_engine(company, monkeypatch) as process:
        night = company.night()
        assert night is not None and night.word == "promoted" and ran == {runs_on}
        assert ("engine_stopped_s" in night.counts) is not runs_on
        assert ("engine_stopped_s" in nights.as_text(night)) is not runs_on
        assert process.ready


def test_a_night_that_waits_for_the_engine_in_vain_is_failed(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    company.plan(serving="stopped")
    company.settings = company.settings.model_copy(update={"drain_s": 0})
    monkeypatch.setattr(nightly, "_LETS_GO_S", 0.1)
    with pause.runs(company.settings.home):
        night = company.night()
    assert night is not None and (night.word, company.live) == ("failed", company.first)
    assert "the engine still runs 0.1 s after it was asked to stop" in night.reasons[0]


def test_an_engine_that_the_assistant_did_not_start_cannot_be_stopped_by_a_night(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text("cases: [a]\nserving: stopped")
    settings = Settings(home=tmp_path, engine_url="http://127.0.0.1:8001")
    with pytest.raises(InputError, match="serving: stopped, but the engine of ASSISTANT_ENGINE_URL is not"):
        nightly.nightly(settings, read_plan(tmp_path / "nightly.yaml"), print)


def test_a_recipe_whose_adapter_no_engine_loads_ends_the_night_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text("cases: [a]\nrecipe: dora.yaml")
    (tmp_path / "dora.yaml").write_text("peft: {use_dora: true}")
    with pytest.raises(InputError, match=r"dora.yaml: vLLM does not serve DoRA, and a night trains what the engine"):
        nightly.nightly(Settings(home=tmp_path), read_plan(tmp_path / "nightly.yaml"), print)
