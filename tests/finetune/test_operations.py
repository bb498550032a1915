"""The operations page: its requests on real files, and the page in a real browser."""

import json
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import uvicorn
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect

from assistant import releases
from assistant.access import Access, add_key
from assistant.admission import Admission
from assistant.chat import Assistant
from assistant.cli import main
from assistant.engine import Engine
from assistant.exchange import Service
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.service import create_app
from assistant.settings import read_settings
from assistant.state import State
from assistant.tracing import Tracer
from finetune import operations
from finetune.nights import Night, Ruling, Step, Topic, write
from finetune.operations import PAGE, router

AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
ATTACK = "<img src=x onerror=alert(1)>How do I buy bitcoin?"
REPORT = (
    "<!doctype html><html lang=en><title>Report</title><style>h1 { color: rgb(1, 2, 3) }</style>"
    "<h1>The report</h1><script>document.title = 'it ran'</script></html>"
)


def night(number: int, word: Any, facts: float | None, **more: Any) -> Night:
    return Night(
        id=f"night{number}",
        at=f"2026-01-{number:02}T02:00:00+00:00",
        word=word,
        reasons=[f"reason {number}"],
        champion="r1",
        steps=[Step("train", 3600, 7000, 2**31), Step("evaluate", 120, 200, 2**30)],
        counts={"new": 100, "examples: training": 70, "turns: duplicate": 20, "quarantined": 10},
        metrics={} if facts is None else {"facts": facts, "style": 0.9},
        **more,
    )


NIGHTS = (
    night(1, "promoted", 0.5),
    night(2, "failed", None),
    night(
        3,
        "kept",
        0.5,
        challenger="r3",
        evaluation="night-3",
        rulings=[
            Ruling("no worse", "facts", -0.125, -0.25, 0.0, -0.05, False, "12.5 points of facts are lost"),
            Ruling("no secrets", "canaries", 0.0, None, None, 0.0, True, "0 of 8 canaries are told"),
        ],
        topics=[Topic("refund · days", 40, ["When is my refund here?"])],
        misses=[Topic("bitcoin · buy", 12, [ATTACK]), Topic("少年 · 账户", 1, ["可以开通少年账户吗？"])],
        articles={"added": ["en/new.md"], "changed": [], "removed": []},
    ),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three nights, two releases of which the second serves, and a report."""
    for each in NIGHTS:
        write(tmp_path / "nights", each)
    releases.publish(tmp_path / "releases", index="index-1", adapter="adapter-1", base="base", prompt="prompt")
    releases.publish(tmp_path / "releases", adapter="adapter-2")
    (tmp_path / "evaluations" / "night-3").mkdir(parents=True)
    (tmp_path / "evaluations" / "night-3" / "report.html").write_text(REPORT)
    return tmp_path


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Keys by tenant, from before the service starts."""
    file = tmp_path / "keys.yaml"
    return {"shop": add_key(file, "shop"), "boss": add_key(file, "boss", admin=True)}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
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
    page = partial(router, tmp_path / "nights", settings.releases, settings.evaluations)
    return create_app(service, settings, b"secret", pages=[page])


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def adapter(home: Path) -> str | None:
    """The adapter of the release that the pointer names."""
    return releases.live(home / "releases").adapter


def both(client: TestClient) -> dict[str, str]:
    """The body of a rollback: what serves, and what did before."""
    shown = client.get("/operations/releases").json()
    return {"live": shown["live"], "to": shown["before"]}


# Requests


def test_nights_come_newest_first_as_they_were_written(home: Path, client: TestClient) -> None:
    shown = client.get("/operations/nights").json()
    assert [each["id"] for each in shown] == ["night3", "night2", "night1"]
    assert shown[0]["misses"][0] == {"label": "bitcoin · buy", "count": 12, "examples": [ATTACK]}
    assert shown[0]["rulings"][0]["number"] == -0.125


def test_where_nothing_happened_yet_all_is_empty(client: TestClient) -> None:
    assert client.get("/operations/nights").json() == []
    assert client.get("/operations/releases").json() == {
        "live": None,
        "before": None,
        "proposed": [],
        "history": [],
    }
    assert client.get("/operations/evaluations").json() == []
    assert client.get("/operations/plots/metric.svg").status_code == 200
    assert client.get("/operations/plots/rows.svg").status_code == 200
    assert client.post("/operations/rollback", json={"live": "a", "to": "b"}).status_code == 409


def test_a_damaged_night_is_named(home: Path, client: TestClient) -> None:
    (home / "nights" / "night2" / "night.json").write_text("{}")
    reply = client.get("/operations/nights")
    assert reply.status_code == 400
    assert "night2/night.json is no night" in reply.json()["error"]["message"]


def test_releases_tell_which_serves_and_what_each_is_made_of(home: Path, client: TestClient) -> None:
    shown = client.get("/operations/releases").json()
    newest, first = shown["history"]
    assert (shown["live"], shown["before"]) == (newest["release"], first["release"])
    assert (newest["parts"]["adapter"], first["parts"]["adapter"]) == ("adapter-2", "adapter-1")
    (home / "releases" / f"{first['release']}.json").unlink()
    assert client.get("/operations/releases").json()["history"][1]["parts"] is None


def test_a_rollback_moves_the_pointer_and_another_one_moves_it_back(home: Path, client: TestClient) -> None:
    wanted = both(client)
    shown = client.post("/operations/rollback", json=wanted).json()
    assert (shown["live"], shown["before"]) == (wanted["to"], wanted["live"])
    assert adapter(home) == "adapter-1"
    client.post("/operations/rollback", json=both(client))
    assert adapter(home) == "adapter-2"


def test_a_rollback_from_what_does_not_serve_any_more_is_refused(home: Path, client: TestClient) -> None:
    wanted = both(client)
    now = releases.publish(home / "releases", adapter="adapter-3")
    reply = client.post("/operations/rollback", json=wanted)
    assert reply.status_code == 409
    assert reply.json()["error"]["message"].startswith(f"meanwhile {now.id} serves")
    assert adapter(home) == "adapter-3"


def test_a_release_that_a_night_refused_is_not_offered_for_a_signature(home: Path, client: TestClient) -> None:
    refused = releases.propose(home / "releases", needs_approval=True, adapter="adapter-3")
    write(home / "nights", night(9, "kept", 0.4, challenger=refused.id))
    assert client.get("/operations/releases").json()["proposed"] == []
    releases.approve(home / "releases", refused.id, "Anna")
    (signed,) = client.get("/operations/releases").json()["proposed"]
    assert signed["release"] == refused.id


def test_a_release_that_waits_is_approved_and_then_may_go_live(home: Path, client: TestClient) -> None:
    folder = home / "releases"
    waiting = releases.propose(folder, needs_approval=True, adapter="adapter-3")
    (shown,) = client.get("/operations/releases").json()["proposed"]
    assert (shown["release"], shown["approval"], shown["parts"]["adapter"]) == (waiting.id, None, "adapter-3")
    (signed,) = client.post("/operations/approve", json={"name": waiting.id, "by": "Anna"}).json()["proposed"]
    assert signed["approval"]["by"] == "Anna"
    releases.promote(folder, waiting.id)
    assert client.get("/operations/releases").json()["proposed"] == []


@pytest.mark.parametrize(
    "given", [{"name": "../live"}, {"name": "0123456789ab"}, {"by": " "}, {"by": "4111 1111 1111 1111"}]
)
def test_an_approval_of_nothing_or_by_nobody_is_refused(home: Path, client: TestClient, given: dict[str, str]) -> None:
    waiting = releases.propose(home / "releases", needs_approval=True, adapter="adapter-3")
    reply = client.post("/operations/approve", json={"name": waiting.id, "by": "Anna", **given})
    assert reply.status_code == 400
    assert "4111" not in reply.text
    assert releases.waits(home / "releases", waiting.id)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_rollback_that_another_site_could_send_is_refused(home: Path, client: TestClient, kind: str | None) -> None:
    body = json.dumps(both(client))
    headers = {"Content-Type": kind} if kind else {}
    assert client.post("/operations/rollback", content=body, headers=headers).status_code == 400
    assert client.get("/operations/rollback").status_code == 405
    assert adapter(home) == "adapter-2"


def test_where_there_are_keys_an_admins_is_needed(keys: dict[str, str], home: Path, client: TestClient) -> None:
    boss = {"Authorization": f"Bearer {keys['boss']}"}
    shown = client.get("/operations/releases", headers=boss).json()
    wanted = {"live": shown["live"], "to": shown["before"]}

    def statuses(headers: dict[str, str]) -> list[int]:
        paths = ("nights", "releases", "plots/metric.svg", "plots/rows.svg", "evaluations", "evaluations/night-3")
        read = [client.get(f"/operations/{path}", headers=headers).status_code for path in paths]
        ticket = client.post("/operations/evaluations/night-3/ticket", headers=headers).status_code
        signed = client.post("/operations/approve", json={"name": shown["live"], "by": "Anna"}, headers=headers)
        return [
            *read,
            ticket,
            signed.status_code,
            client.post("/operations/rollback", json=wanted, headers=headers).status_code,
        ]

    assert statuses({}) == [401] * 9
    assert statuses({"Authorization": f"Bearer {keys['shop']}"}) == [403] * 9
    assert adapter(home) == "adapter-2"
    assert statuses(boss) == [200] * 9
    assert adapter(home) == "adapter-1"
    assert client.get("/operations").status_code == 200


def test_a_ticket_opens_one_report_for_a_minute(
    keys: dict[str, str], home: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "evaluations" / "other").mkdir()
    (home / "evaluations" / "other" / "report.html").write_text(REPORT)
    boss = {"Authorization": f"Bearer {keys['boss']}"}
    given = client.post("/operations/evaluations/night-3/ticket", headers=boss).json()
    reply = client.get("/operations/evaluations/night-3", params=given)
    assert (reply.status_code, reply.text) == (200, REPORT)
    assert reply.headers["Content-Security-Policy"] == "sandbox allow-scripts; frame-ancestors 'none'"
    assert client.get("/operations/evaluations/other", params=given).status_code == 401
    assert client.get("/operations/evaluations/night-3", params={"ticket": "é"}).status_code == 401
    later = operations.time.time() + 2 * operations.TICKET_S
    monkeypatch.setattr(operations.time, "time", lambda: later)
    assert client.get("/operations/evaluations/night-3", params=given).status_code == 401


@pytest.mark.parametrize("id", ["none", "%2e%2e", "4111 1111 1111 1111"])
def test_a_report_that_there_is_not_is_not_found(home: Path, client: TestClient, id: str) -> None:
    reply = client.get(f"/operations/evaluations/{id}")
    assert reply.status_code == 404
    assert "4111" not in reply.text


def test_plots_are_images_that_nothing_can_run_in(home: Path, client: TestClient) -> None:
    for name in ("metric.svg?name=facts", "metric.svg?name=style&lang=zh", "metric.svg?name=none", "rows.svg?lang=zh"):
        reply = client.get(f"/operations/plots/{name}")
        assert reply.headers["Content-Type"] == "image/svg+xml"
        assert "script-src" not in reply.headers["Content-Security-Policy"]
        assert ElementTree.fromstring(reply.text).tag.endswith("svg")
        assert "#00000" not in reply.text
    assert "隔离" in reply.text and "01-03" in reply.text


def test_the_page_has_the_policy_of_the_chat_page(client: TestClient) -> None:
    chat, page = client.get("/").headers, client.get("/operations").headers
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control"):
        assert page[name] == chat[name]
    assert client.get("/operations/files/operations.js").headers["Content-Type"].startswith("text/javascript")
    assert client.get("/operations/files/index.html").status_code == 400


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
    """The page in English, not yet opened; a message on its console fails the test."""
    context = browser.new_context(
        locale="en-GB", timezone_id="UTC", reduced_motion="reduce", viewport={"width": 1100, "height": 900},
        base_url=address,
    )  # fmt: skip
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    yield page
    context.close()
    assert said == []


def visit(page: Page) -> None:
    """Open the page and wait until its plots are drawn."""
    page.goto("/operations")
    expect(page.locator("#rows-plot[alt]")).to_be_visible()


def test_a_support_lead_reads_the_last_night_and_what_wants_an_article(home: Path, page: Page) -> None:
    visit(page)
    expect(page.locator("#last")).to_contain_text("Kept 3 Jan 2026, 02:00")
    expect(page.locator("#reasons")).to_have_text("reason 3")
    expect(page.locator("#misses summary")).to_have_text(["bitcoin · buy12 customers", "少年 · 账户1 customer"])
    page.get_by_text("少年 · 账户").click()
    expect(page.get_by_text("可以开通少年账户吗？")).to_be_visible()


def test_untrusted_text_stays_text(home: Path, page: Page) -> None:
    visit(page)
    page.get_by_text("bitcoin · buy").click()
    expect(page.get_by_text(ATTACK)).to_be_visible()
    assert page.locator("#misses img").count() == 0


def test_an_engineer_opens_a_night_by_keyboard(home: Path, page: Page) -> None:
    visit(page)
    rows = page.locator("#nights tbody tr:not(.detail)")
    expect(rows).to_have_text(
        [
            re.compile(r"3 Jan 2026, 02:00Kept10050\.0% → 50\.0%1 h 2 min"),
            re.compile(r"2 Jan 2026, 02:00Failed10050\.0% → –1 h 2 min"),
            re.compile(r"1 Jan 2026, 02:00Promoted10050\.0%1 h 2 min"),
        ]
    )
    page.get_by_role("button", name="3 Jan 2026").focus()
    page.keyboard.press("Enter")
    detail = page.locator("#nights .detail").first
    expect(page.get_by_role("button", name="3 Jan 2026")).to_have_attribute("aria-expanded", "true")
    expect(detail.locator(".broken")).to_contain_text("12.5 points of facts are lost")
    expect(detail.locator(".broken")).to_contain_text("facts: -0.125 (-0.25 … 0), bound -0.05")
    expect(detail.locator(".passed")).to_contain_text("canaries: 0, bound 0")
    for said in (
        "train: 1 h 0 min · CPU 1 h 57 min · 2.0 GB",
        "added: en/new.md",
        "refund · days: 40",
    ):
        expect(detail).to_contain_text(said)
    page.keyboard.press("Enter")
    expect(detail).to_be_hidden()


def test_another_metric_is_drawn(home: Path, page: Page) -> None:
    visit(page)
    expect(page.get_by_role("img", name="facts, by night")).to_have_attribute(
        "alt", re.compile("1 Jan 2026 0.5; 3 Jan 2026 0.5$")
    )
    page.get_by_label("The release that serves:").select_option("style")
    expect(page.get_by_role("img", name="style, by night")).to_be_visible()


def test_going_back_asks_first_and_names_both_releases(home: Path, page: Page) -> None:
    visit(page)
    old, new = (entry.release for entry in releases.history(home / "releases"))
    page.get_by_role("button", name="Go back to the release before").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Serves now{new}")
    expect(dialog).to_contain_text(f"Served before{old}")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert adapter(home) == "adapter-2"
    page.get_by_role("button", name="Go back to the release before").click()
    page.get_by_role("button", name=f"Go back to {old}").click()
    expect(page.locator("#done")).to_have_text(f"Now live: {old}")
    expect(page.locator("#history li").first).to_contain_text(f"{old} live")
    assert adapter(home) == "adapter-1"


def test_a_person_signs_what_waits(home: Path, page: Page) -> None:
    waiting = releases.propose(home / "releases", needs_approval=True, adapter="adapter-3")
    visit(page)
    expect(page.locator("#proposed li")).to_contain_text("Waiting for approval")
    page.get_by_label("Your name").fill("Anna <b>")
    page.keyboard.press("Enter")
    expect(page.locator("#proposed li")).to_contain_text("Approved by Anna <b>")
    expect(page.locator("#proposed li")).to_contain_text(f"assistant release promote {waiting.id}")
    assert not releases.waits(home / "releases", waiting.id)


def test_a_release_that_changed_meanwhile_is_shown_anew(home: Path, browser: Browser, address: str) -> None:
    page = browser.new_page(locale="en-GB", base_url=address)
    visit(page)
    now = releases.publish(home / "releases", adapter="adapter-3")
    page.get_by_role("button", name="Go back to the release before").click()
    page.locator("#agree").click()
    expect(page.get_by_role("alert")).to_contain_text(f"meanwhile {now.id} serves")
    expect(page.locator("#history li").first).to_contain_text(f"{now.id} live")
    assert adapter(home) == "adapter-3"
    page.close()


def test_without_a_night_the_page_says_how_to_start(page: Page, tmp_path: Path) -> None:
    page.goto("/operations")
    command = page.get_by_text("assistant nightly")
    expect(command).to_be_visible()
    done = CliRunner().invoke(main, [*command.inner_text().split()[1:], "--home", str(tmp_path)])
    assert done.exit_code == 1 and "nightly.yaml cannot be read" in done.output
    expect(page.get_by_text("No release serves yet.")).to_be_visible()
    expect(page.locator("#nights")).to_be_hidden()
    expect(page.locator("#rollback")).to_be_hidden()


def test_a_report_is_styled_and_runs_its_own_script(home: Path, page: Page) -> None:
    visit(page)
    page.get_by_role("link", name="night-3").click()
    expect(page.get_by_role("heading", name="The report")).to_have_css("color", "rgb(1, 2, 3)")
    expect(page).to_have_title("it ran")
    assert page.evaluate("origin") == "null"


def test_with_a_key_the_report_opens_by_a_ticket(
    home: Path, keys: dict[str, str], browser: Browser, address: str
) -> None:
    page = browser.new_page(locale="en-GB", base_url=address)
    page.goto("/operations")
    for tenant in ("shop", "boss"):
        expect(page.locator("#content")).to_be_hidden()
        page.get_by_label("API key of an administrator").fill(keys[tenant])
        page.keyboard.press("Enter")
        if tenant == "shop":
            expect(page.get_by_role("alert")).to_have_text("This key is not an administrator's.")
    page.get_by_role("link", name="night-3").click()
    expect(page.get_by_role("heading", name="The report")).to_be_visible()
    assert keys["boss"] not in page.url
    page.close()


def test_chinese_is_spoken(home: Path, browser: Browser, address: str) -> None:
    context = browser.new_context(locale="zh-CN", base_url=address)
    page = context.new_page()
    visit(page)
    expect(page.locator("#word")).to_have_text("维持原版本")
    assert page.locator("html").get_attribute("lang") == "zh"
    page.get_by_role("button", name="English").click()
    expect(page.locator("#word")).to_have_text("Kept")
    expect(page.locator("#misses summary").first).to_contain_text("12 customers")
    context.close()


@pytest.mark.parametrize(("width", "height"), [(375, 667), (320, 256)])
def test_a_phone_does_not_scroll_sideways(home: Path, page: Page, width: int, height: int) -> None:
    """320 by 256 is a laptop at 400%."""
    page.set_viewport_size({"width": width, "height": height})
    visit(page)
    page.get_by_role("button", name="3 Jan 2026").click()
    page.get_by_text("bitcoin · buy").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("main").evaluate("(node) => node.scrollWidth <= node.clientWidth")
    page.get_by_role("button", name="Go back to the release before").click()
    assert page.get_by_role("dialog").evaluate("(node) => node.scrollWidth <= node.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_operations_page(home: Path, page: Page, scheme: Any) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE}: npm install --no-save axe-core, or name axe.min.js in AXE_CORE")
    page.emulate_media(color_scheme=scheme)
    releases.propose(home / "releases", needs_approval=True, adapter="adapter-3")
    visit(page)
    page.get_by_role("button", name="3 Jan 2026").click()
    page.get_by_text("bitcoin · buy").click()
    assert violations(page) == []
    page.get_by_role("button", name="Go back to the release before").click()
    page.mouse.move(0, 0)
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def test_operators_read_every_text_in_both_languages() -> None:
    script, document = ((PAGE / name).read_text(encoding="utf-8") for name in ("operations.js", "index.html"))
    texts, rest = script.split("const MOST_HISTORY")
    keys = [re.findall(r"(?<=[\s{,])(\w+): \"", part) for part in texts.split("  zh: {")]
    assert sorted(keys[0]) == sorted(keys[1])
    words = {"promoted", "kept", "failed", "waiting", "added", "changed", "removed"}  # named by the nights
    assert [key for key in keys[0] if key not in words and not re.search(rf"\b{key}\b", rest + document)] == []
