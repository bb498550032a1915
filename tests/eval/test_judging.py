"""Blind judging: the requests on real files and a real database, and the page in a real browser."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect

from assistant.access import Access, add_key
from assistant.admission import Admission
from assistant.chat import Assistant
from assistant.engine import Engine
from assistant.exchange import Service
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.service import create_app
from assistant.settings import read_settings
from assistant.state import Judgement, State
from assistant.tracing import Tracer
from eval.answers import Answer, Cost, Shown, written
from eval.judging import PAGE, people, router

AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
FEE = Shown("en/fees.md", "Fees > Cards", "A card payment costs <b>2 EUR</b>.")
TALK = [
    {"role": "user", "content": "My card 4111 1111 1111 1111 was declined."},
    {"role": "assistant", "content": "Which country are you in?"},
    {"role": "user", "content": "In France."},
]
CASES = (
    *({"id": f"c{number}", "query": f"What is fee {number}?", "reference": "2 EUR."} for number in range(1, 9)),
    {"id": "talk", "messages": TALK},
    {"id": "zh", "query": "手续费是多少？"},
    {"id": "alike", "query": "Are the two answers alike?"},
    {"id": "failed", "query": "Which arm has no answer?"},
)
JUDGED = {*(f"c{number}" for number in range(1, 9)), "talk", "zh"}


def answers() -> Iterator[Answer]:
    """The candidate's answers say "new", the baseline's "old"; only the baseline was given a passage, and cites it."""
    cost = Cost(0.1, 12.5, None, 10, 10)
    for case in CASES:
        old = Answer(case["id"], "rag", "The old answer. [1]", "grounded", passages=(FEE,), cost=cost)
        new = replace(old, arm="lora", text="The new answer <img src=x>.", route="adapter", passages=())
        if case["id"] == "alike":
            new = replace(new, text="The old answer.")
        yield old
        if case["id"] != "failed":
            yield new
        yield replace(new, arm="base", text="Nobody judges this one.")


@pytest.fixture
def evaluations(tmp_path: Path) -> Path:
    """One that is finished, and one that is not."""
    for id in ("e1", "unfinished"):
        folder = tmp_path / "evaluations" / id
        folder.mkdir(parents=True)
        (folder / "answers.jsonl").write_text(written(answers()))
        (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in CASES))
    night = tmp_path / "evaluations" / "night-1"  # has a report, and no answers of its own
    night.mkdir()
    report = {"id": "e1", "at": "2026-01-31T12:00:00Z", "baseline": "rag", "candidate": "lora", "verdict": "better"}
    for folder in (tmp_path / "evaluations" / "e1", night):
        (folder / "report.json").write_text(json.dumps(report))
    return tmp_path / "evaluations"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Keys by tenant, from before the service starts."""
    file = tmp_path / "keys.yaml"
    return {"shop": add_key(file, "shop"), "boss": add_key(file, "boss", admin=True)}


@pytest.fixture
def app(evaluations: Path, tmp_path: Path) -> FastAPI:
    """The service; nobody asks its engine anything."""
    settings = read_settings(home=tmp_path)
    engine = Engine("http://127.0.0.1:9")
    service = Service(
        live=Live(Assistant("r1", None, engine, "adapter-1", ("en",), read_policy(None), settings)),  # type: ignore[arg-type]
        access=Access(tmp_path / "keys.yaml"),
        admission=Admission(4, 4, 1),
        state=State(settings.database_url),
        metrics=Metrics(),
        tracer=Tracer(),
    )
    return create_app(service, settings, b"secret", pages=[partial(router, evaluations)])


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture
def votes(app: FastAPI, tmp_path: Path) -> Iterator[Callable[[], list[Judgement]]]:
    """Reads the votes on e1 from the database."""
    state = State(read_settings(home=tmp_path).database_url)
    yield lambda: list(state.votes("e1"))
    state.close()


def following(client: TestClient, judge: str) -> dict[str, Any]:
    reply = client.get("/judging/runs/e1/next", params={"judge": judge})
    assert reply.status_code == 200
    return reply.json()


def vote(client: TestClient, judge: str, case: str, preferred: str = "left", reasons: tuple[str, ...] = ()) -> None:
    given = {"judge": judge, "case": case, "preferred": preferred, "reasons": list(reasons)}
    assert client.post("/judging/runs/e1/votes", json=given).status_code == 201


def judged(client: TestClient, judge: str, count: int) -> list[str]:
    """The cases of `count` votes, in the order in which they were shown."""
    cases = []
    for _ in range(count):
        cases.append(following(client, judge)["pair"]["case"])
        vote(client, judge, cases[-1])
    return cases


# Requests


def test_only_finished_evaluations_are_judged(client: TestClient) -> None:
    assert client.get("/judging/runs").json() == [{"id": "e1", "at": "2026-01-31T12:00:00Z"}]
    for id in ("unfinished", "night-1", "e2", "..", "%2e%2e"):
        assert client.get(f"/judging/runs/{id}/next", params={"judge": "anna"}).status_code == 404


def test_nothing_in_a_pair_tells_which_arm_is_which(client: TestClient) -> None:
    for _ in JUDGED:
        shown = following(client, "anna")
        text = json.dumps(shown)
        assert not any(word in text for word in ("rag", "lora", "base", "grounded", "adapter", "12.5", "[1]", "arm"))
        assert sorted(shown["pair"]["answers"]) == ["The new answer <img src=x>.", "The old answer."]
        assert shown["pair"]["passages"] == [{"path": FEE.path, "heading": FEE.heading, "text": FEE.text}]
        vote(client, "anna", shown["pair"]["case"])


def test_every_pair_that_differs_is_shown_once_and_then_it_ends(client: TestClient) -> None:
    assert following(client, "anna")["total"] == 10
    assert set(judged(client, "anna", 10)) == JUDGED
    assert following(client, "anna") == {"done": 10, "total": 10, "pair": None}


def test_a_whole_conversation_is_shown_without_card_numbers(client: TestClient) -> None:
    pairs = {}
    for _ in JUDGED:
        pair = following(client, "anna")["pair"]
        pairs[pair["case"]] = pair
        vote(client, "anna", pair["case"])
    assert [said["content"] for said in pairs["talk"]["asked"]] == [
        "My card <CARD_1> was declined.",
        "Which country are you in?",
        "In France.",
    ]
    assert (pairs["talk"]["reference"], pairs["c1"]["reference"]) == (None, "2 EUR.")


def test_no_card_number_in_reference_answer_or_passage_reaches_the_browser(
    client: TestClient, evaluations: Path
) -> None:
    card = "4111 1111 1111 1111"
    case = {"id": "typed", "query": "Which card?", "reference": f"The card {card}."}
    passage = Shown("en/a.md", f"Card {card}", f"Such as {card}.")
    said = Answer("typed", "rag", f"It is {card}.", "grounded", passages=(passage,))
    (evaluations / "e1" / "cases.jsonl").write_text(json.dumps(case) + "\n")
    other = replace(said, arm="lora", text=f"Your card is {card}.")
    (evaluations / "e1" / "answers.jsonl").write_text(written([said, other]))
    pair = following(client, "anna")["pair"]
    assert "4111" not in json.dumps(pair)
    assert sorted(pair["answers"]) == ["It is <CARD_1>.", "Your card is <CARD_1>."]
    assert pair["reference"] == "The card <CARD_1>."


def test_sides_differ_between_cases_and_judges_and_stay(client: TestClient) -> None:
    def sides(judge: str) -> dict[str, list[str]]:
        shown = {}
        for _ in JUDGED:
            pair = following(client, judge)["pair"]
            assert following(client, judge)["pair"] == pair
            shown[pair["case"]] = pair["answers"]
            vote(client, judge, pair["case"])
        return shown

    anna, bert = sides("anna"), sides("bert")
    assert {tuple(answers) for answers in anna.values()} == {
        ("The old answer.", "The new answer <img src=x>."),
        ("The new answer <img src=x>.", "The old answer."),
    }
    assert anna != bert


def test_judges_share_an_order(client: TestClient) -> None:
    assert judged(client, "anna", 4) == judged(client, "bert", 4)


def test_what_others_judged_comes_first(client: TestClient) -> None:
    first, *_, last = judged(client, "anna", 10)
    for _ in range(10):
        client.delete("/judging/runs/e1/votes", params={"judge": "anna"})
    vote(client, "bert", last)
    assert judged(client, "anna", 2) == [last, first]


def test_a_vote_names_the_arm_that_stood_there(client: TestClient, votes: Callable[[], list[Judgement]]) -> None:
    for _ in JUDGED:
        pair = following(client, "anna")["pair"]
        side = "left" if "new" in pair["answers"][0] else "right"
        vote(client, "anna", pair["case"], side, ("readability", "relevance"))
    assert {vote.preferred for vote in votes()} == {"left", "right"}
    assert {vote.left_arm if vote.preferred == "left" else vote.right_arm for vote in votes()} == {"lora"}
    assert {(vote.judge, vote.reasons) for vote in votes()} == {("anna", ("relevance", "readability"))}


def test_the_last_vote_is_taken_back_and_its_pair_shown_again(
    client: TestClient, votes: Callable[[], list[Judgement]]
) -> None:
    first, second = judged(client, "anna", 2)
    vote(client, "bert", first)
    undone = client.delete("/judging/runs/e1/votes", params={"judge": "anna"}).json()
    assert (undone["pair"]["case"], undone["done"]) == (second, 1)
    assert client.delete("/judging/runs/e1/votes", params={"judge": "anna"}).json()["pair"]["case"] == first
    assert [(vote.judge, vote.case_id) for vote in votes()] == [("bert", first)]
    reply = client.delete("/judging/runs/e1/votes", params={"judge": "anna"})
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == "anna has no vote on the evaluation e1 to take back"


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        ({"case": "alike"}, 404, "the evaluation e1 has no two answers to a case 'alike'"),
        ({"case": "4111 1111 1111 1111"}, 404, "the evaluation e1 has no two answers to a case '<CARD_1>'"),
        ({"judge": "4111 1111 1111 1111"}, 400, "the name '<CARD_1>' holds personal data; take a nickname"),
        ({"judge": " "}, 400, "judge: String should have at least 1 character"),
        ({"judge": "a" * 61}, 400, "judge: String should have at most 60 characters"),
        ({"preferred": "lora"}, 400, "preferred: Input should be 'left', 'right' or 'tie'"),
        ({"reasons": ["colour"]}, 400, "reasons.0: Input should be 'relevance', 'correctness' or 'readability'"),
    ],
)
def test_a_vote_that_is_none_is_refused(
    client: TestClient,
    votes: Callable[[], list[Judgement]],
    given: dict[str, Any],
    status: int,
    message: str,
) -> None:
    body = {"judge": "anna", "case": "c1", "preferred": "left", **given}
    reply = client.post("/judging/runs/e1/votes", json=body)
    assert (reply.status_code, reply.json()["error"]["message"]) == (status, message)
    assert votes() == []


def test_an_answer_that_is_asked_again_is_judged_anew(client: TestClient, evaluations: Path) -> None:
    assert following(client, "anna")["total"] == 10
    file = evaluations / "e1" / "answers.jsonl"
    file.write_text(file.read_text() + written([Answer("failed", "lora", "It has one now.", "adapter")]))
    os.utime(file, ns=(1, 1))
    assert following(client, "anna")["total"] == 11


def test_a_report_that_is_none_says_so(client: TestClient, evaluations: Path) -> None:
    (evaluations / "e1" / "report.json").write_text("{}")
    reply = client.get("/judging/runs")
    assert reply.status_code == 400
    assert "e1/report.json is no report of an evaluation: KeyError('at'); move" in reply.json()["error"]["message"]


def test_where_there_are_keys_an_admins_is_needed(keys: dict[str, str], client: TestClient) -> None:
    def statuses(headers: dict[str, str]) -> list[int]:
        given = {"judge": "anna", "case": "c1", "preferred": "tie"}
        return [
            client.get("/judging/runs", headers=headers).status_code,
            client.get("/judging/runs/e1/next?judge=anna", headers=headers).status_code,
            client.post("/judging/runs/e1/votes", json=given, headers=headers).status_code,
            client.delete("/judging/runs/e1/votes?judge=anna", headers=headers).status_code,
        ]

    assert statuses({}) == [401] * 4
    assert statuses({"Authorization": f"Bearer {keys['shop']}"}) == [403] * 4
    assert statuses({"Authorization": f"Bearer {keys['boss']}"}) == [200, 200, 201, 200]
    assert client.get("/judging").status_code == 200


def test_the_page_has_the_policy_of_the_chat_page(client: TestClient) -> None:
    chat, judging = client.get("/").headers, client.get("/judging").headers
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control"):
        assert judging[name] == chat[name]
    assert client.get("/judging/files/judging.js").headers["Content-Type"].startswith("text/javascript")
    assert client.get("/judging/files/index.html").status_code == 400


# What the votes come to


def judgement(judge: str, case: str, preferred: str, *reasons: str, left: str = "rag") -> Judgement:
    right = {"rag": "lora", "lora": "rag"}[left]
    return Judgement("e1", case, judge, left, right, preferred, reasons, NOON)  # type: ignore[arg-type]


def test_votes_are_summed_by_arm() -> None:
    votes = [
        judgement("anna", "c1", "right", "correctness"),
        judgement("bert", "c1", "left", "correctness", "relevance", left="lora"),
        judgement("anna", "c2", "left", "readability"),
        judgement("bert", "c2", "left"),
        judgement("anna", "c3", "right"),
        judgement("anna", "c4", "tie", "relevance"),
    ]
    result = people(votes, "rag", "lora", {})
    assert result is not None
    assert (result.judges, result.items, result.votes) == (2, 4, 6)
    assert result.preferred == {"lora": 3, "rag": 2, "tie": 1}
    assert result.reasons == {
        "lora": {"relevance": 1, "correctness": 2, "readability": 0},
        "rag": {"relevance": 0, "correctness": 0, "readability": 1},
    }
    assert result.alpha == 1.0
    assert result.share is not None and (result.share.mean, result.share.n) == (0.6, 5)
    assert 0 <= result.share.low < 0.6 < result.share.high <= 1
    assert result.bias is not None and (result.bias["left"]["mean"], result.bias["p"]) == (0.6, 1.0)


def test_ten_unanimous_votes_on_two_independent_groups_are_two() -> None:
    """Wilson's lower end of 2 of 2 is 2 / (2 + 1.96²)."""
    votes = [judgement("anna", f"c{number}", "right") for number in range(10)]
    result = people(votes, "rag", "lora", {f"c{number}": "odd" if number % 2 else "even" for number in range(10)})
    assert result is not None and result.share is not None
    assert (result.share.mean, result.share.high, result.share.n) == (1.0, 1.0, 10)
    assert result.share.low == pytest.approx(2 / (2 + 1.96**2), abs=1e-4)


def test_ties_alone_have_no_share_and_no_votes_are_nobody() -> None:
    result = people([judgement("anna", "c1", "tie")], "rag", "lora", {})
    assert result is not None and (result.share, result.alpha, result.bias) == (None, None, None)
    assert people([], "rag", "lora", {}) is None
    assert people([judgement("anna", "c1", "left")], "rag", "base", {}) is None


# The page


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened in English; a message on its console fails the test."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce", viewport={"width": 1100, "height": 800})
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{address}/judging")
    yield page
    context.close()
    assert said == []


def begin(page: Page, judge: str) -> None:
    page.get_by_label("Your name").fill(judge)
    page.keyboard.press("Enter")
    expect(page.locator("#pair")).to_be_visible()


def press(page: Page, key: str, number: int) -> None:
    """Press a key and wait for the pair of this number."""
    page.keyboard.press(key)
    expect(page.locator("#progress")).to_contain_text(f"{number} of 10 ")


def test_two_judges_vote_by_keys_and_the_right_arm_gets_the_votes(
    page: Page, votes: Callable[[], list[Judgement]]
) -> None:
    """Anna prefers what is new, wherever it stands; Bert finds them alike."""
    begin(page, "anna")
    for number in range(1, 11):
        press(page, "1" if "new" in page.locator("#left").inner_text() else "2", min(number + 1, 10))
    expect(page.get_by_text("That was the last one.")).to_be_visible()
    page.reload()
    begin(page, "bert")
    page.get_by_label("Readability").check()
    press(page, "3", 2)
    assert page.get_by_label("Readability").is_checked() is False
    *anna, bert = votes()
    assert {vote.case_id for vote in anna} == JUDGED
    assert {vote.left_arm if vote.preferred == "left" else vote.right_arm for vote in anna} == {"lora"}
    assert {vote.preferred for vote in anna} == {"left", "right"}
    assert (bert.judge, bert.preferred, bert.reasons) == ("bert", "tie", ("readability",))


def test_a_reload_keeps_the_judge_the_pair_and_its_sides(page: Page) -> None:
    begin(page, "anna")
    press(page, "1", 2)
    before = page.locator("#pair").inner_text()
    page.reload()
    expect(page.get_by_role("button", name="Begin")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#pair")).to_be_visible()
    assert page.locator("#pair").inner_text() == before
    assert page.locator("#progress").inner_text() == "2 of 10 · anna"


def test_u_takes_the_last_vote_back(page: Page, votes: Callable[[], list[Judgement]]) -> None:
    begin(page, "anna")
    expect(page.locator("#undo")).to_be_hidden()
    before = page.locator("#pair").inner_text()
    press(page, "2", 2)
    assert len(votes()) == 1
    press(page, "u", 1)
    assert page.locator("#pair").inner_text() == before
    assert votes() == []


def test_keys_pressed_while_a_name_is_typed_or_with_ctrl_are_no_votes(
    page: Page, votes: Callable[[], list[Judgement]]
) -> None:
    page.get_by_label("Your name").press_sequentially("u1 2 3")
    page.keyboard.press("Enter")
    expect(page.locator("#pair")).to_be_visible()
    page.keyboard.press("Control+1")
    page.get_by_role("button", name="Tie").click()
    expect(page.locator("#progress")).to_have_text("2 of 10 · u1 2 3")
    assert [vote.preferred for vote in votes()] == ["tie"]


def test_the_page_shows_text_as_text_and_names_no_arm(page: Page) -> None:
    begin(page, "anna")
    for number in range(1, 11):
        html = page.content()
        assert not any(word in html for word in ("lora", "rag", "grounded", "adapter", "[1]"))
        assert page.locator("#pair img").count() == page.locator("#pair b").count() == 0
        press(page, "3", min(number + 1, 10))


def test_reference_and_passages_open_on_demand(page: Page) -> None:
    begin(page, "anna")
    while not page.locator("#asked").inner_text().endswith("?") or page.get_by_text("手续费").count():
        page.get_by_role("button", name="Tie").click()
        page.wait_for_timeout(100)
    expect(page.get_by_text("2 EUR.", exact=True)).to_be_hidden()
    page.get_by_text("Reference answer").click()
    expect(page.get_by_text("2 EUR.", exact=True)).to_be_visible()
    page.get_by_text("Passages of the help centre").click()
    expect(page.get_by_text("A card payment costs <b>2 EUR</b>.")).to_be_visible()
    expect(page.get_by_text("en/fees.md · Fees › Cards")).to_be_visible()


def test_an_admins_key_is_asked_for_once(browser: Browser, keys: dict[str, str], address: str) -> None:
    page = browser.new_page(locale="en-GB")
    page.goto(f"{address}/judging")
    for tenant in ("shop", "boss"):
        expect(page.get_by_label("Your name")).to_be_hidden()
        page.get_by_label("API key of an administrator").fill(keys[tenant])
        page.keyboard.press("Enter")
        if tenant == "shop":
            expect(page.get_by_role("alert")).to_have_text("This key is not an administrator's.")
    begin(page, "anna")
    page.reload()
    begin(page, "anna")
    assert page.evaluate("JSON.stringify(localStorage)").count("sk-") == 0
    page.close()


def test_chinese_is_spoken(browser: Browser, address: str) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(f"{address}/judging")
    page.get_by_label("您的姓名或昵称").fill("小王")
    page.get_by_role("button", name="开始").click()
    expect(page.locator("#progress")).to_have_text("1 / 10 · 小王")
    assert page.get_by_role("button", name="A 更好").is_visible()
    assert page.locator("html").get_attribute("lang") == "zh"
    page.get_by_role("button", name="English").click()
    assert page.get_by_role("button", name="A better").is_visible()
    expect(page.locator("#progress")).to_have_text("1 of 10 · 小王")
    context.close()


@pytest.mark.parametrize(("width", "height"), [(375, 667), (320, 256)])
def test_a_phone_does_not_scroll_sideways(page: Page, width: int, height: int) -> None:
    """320 by 256 is a laptop at 400%."""
    page.set_viewport_size({"width": width, "height": height})
    begin(page, "anna")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("main").evaluate("(node) => node.scrollWidth <= node.clientWidth")
    left, right = page.locator("#answers .answer").all()
    assert left.bounding_box()["y"] < right.bounding_box()["y"]  # type: ignore[index]
    page.get_by_role("button", name="Tie").click()
    expect(page.locator("#progress")).to_have_text("2 of 10 · anna")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_judge(page: Page, scheme: Any) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE}: npm install --no-save axe-core, or name axe.min.js in AXE_CORE")
    page.emulate_media(color_scheme=scheme)
    assert violations(page) == []
    begin(page, "anna")
    page.get_by_text("Passages of the help centre").click()
    page.get_by_label("Correctness").check()
    page.mouse.move(0, 0)
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def test_judges_read_every_text_in_both_languages() -> None:
    script, document = ((PAGE / name).read_text(encoding="utf-8") for name in ("judging.js", "index.html"))
    texts, rest = script.split("const KEYS")
    keys = [re.findall(r"(?<=[\s{,])(\w+): \"", part) for part in texts.split("  zh: {")]
    assert sorted(keys[0]) == sorted(keys[1])
    assert [key for key in keys[0] if not re.search(rf"\b{key}\b", rest + document)] == []
