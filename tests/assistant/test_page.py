"""The chat page and its widget in a real browser, against a stub that serves the page and canned replies."""

import asyncio
import hashlib
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect
from playwright.sync_api import Error as PlaywrightError

PAGE = Path(__file__).parents[2] / "assistant" / "page"
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors *; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
ARTICLE = "# Refunds\n\n" + "Fees are not part of this.\n\n" * 60 + "Refunds take **5 days**.\n\nCash takes 9 days."
CITATION = {
    "n": 1,
    "path": "en/退款 1.md",
    "heading": "Refunds > The time limit",
    "quote": "Refunds take 5 days.",
    "score": 0.9,
    "start": ARTICLE.index("Refunds take"),
    "end": ARTICLE.index("\n\nCash"),
    "place": "line 123",
}
MADE = {"adapter": "adapter-1", "index": "index-1", "release": "release-1"}
GROUNDED = {"route": "grounded", "notice": "Written from our articles.", "citations": [CITATION], **MADE}
HANDOFF = {"route": "handoff", "notice": "A colleague of ours has to look at this.", "reason": "stolen card", **MADE}
MARKDOWN = """Refunds take **5 days**. [1]

1. Open the payment
2. Choose **Refund**

| Card | Days |
|---|---|
| Visa | 5 |

See [our site](https://pay.example/refunds)."""
ATTACK = """<img src=x onerror="hacked=1"> <script>hacked=1</script>

<div onclick="hacked=1">text of a page</div>

[a](javascript:hacked=1) [b](data:text/html,hacked) [c](vbscript:x) [d](/v1/models) <javascript:hacked=1>

![remote ![<img src=x onerror=hacked=1>](x)](http://127.0.0.1:9/pixel.png) [1]

[1]: javascript:hacked=1

Your card <CARD_1> and <b onmouseover=hacked=1>that</b>; [2]"""
ZH = "退款需要**5天。**之后3~5天到账，节假日7~10天。"


@dataclass(frozen=True)
class Reply:
    """What the stub answers to a question: events of a stream, or an error."""

    pieces: tuple[str, ...] = ()
    extension: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    status: int = 200
    retry_after_s: int | None = None


REPLIES = {
    "markdown": Reply(tuple(re.findall(r"(?s).{1,3}", MARKDOWN)), GROUNDED),
    "attack": Reply((ATTACK,), GROUNDED),
    "plain": Reply(("Refunds take 5 days. [1]",), {"route": "grounded", "citations": [CITATION]}),
    "figures": Reply(("It takes 15 days.",), {"route": "adapter", "notice": None, "unsupported": ["15 days", "2 EUR"]}),
    "stolen": Reply(("Please block the card now in the app, under **Cards**.",), HANDOFF),
    "zh": Reply((ZH,), {"route": "grounded", "notice": "根据帮助中心的文章作答。", **MADE}),
    "blocks": Reply(("**One.**\n\nTwo", " and three."), {"route": "grounded"}),
    "breaks": Reply(("Refunds take",), error="the engine has ended"),
    "cut": Reply(("Refunds take",)),
    "spent": Reply(status=429, retry_after_s=7200),
    "down": Reply(status=500, error="the index is broken"),
}


class Stub:
    """Serves the page as the service does, and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.feedback: list[dict[str, Any]] = []
        self.feedback_fails = False
        self.key: str | None = None
        self.busy = 0
        self.busy_s = 2
        self.go_on = threading.Event()
        self.go_on.set()
        self.app = FastAPI()
        self.app.mount("/page", StaticFiles(directory=PAGE))
        self.app.get("/")(self.page)
        self.app.get("/shop")(self.shop)
        self.app.get("/readyz")(lambda: {"ready": True})
        self.app.get("/v1/articles/{path:path}")(self.article)
        self.app.post("/v1/feedback")(self.take_feedback)
        self.app.post("/v1/chat/completions")(self.chat)

    def page(self) -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})

    def shop(self, request: Request) -> HTMLResponse:
        """Another site's page, whose styles would break a widget that they reach."""
        origin = f"http://127.0.0.1:{request.url.port}"
        return HTMLResponse(
            f"""<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Shop</title>
            <style>* {{ color: red !important; font-size: 40px !important; display: block !important }}
            button, div {{ width: 10px !important; visibility: hidden !important }}</style>
            <h1>Tea shop</h1><p>Buy tea.</p><script>window.before = Object.keys(window)</script>
            <script src="{origin}/page/widget.js" defer
                    data-lang="en" data-colour="#ffd54a" data-title="Ask the tea shop"></script></html>""",
            headers={"Content-Security-Policy": f"script-src 'unsafe-inline' {origin}; frame-src {origin}"},
        )

    def article(self, path: str) -> Response:
        if path != CITATION["path"]:
            return JSONResponse({"error": {"message": f"no article {path!r}"}}, 404)
        return JSONResponse({"path": path, "title": "Refunds", "language": "en", "text": ARTICLE})

    async def take_feedback(self, request: Request) -> Response:
        if self.feedback_fails:
            return JSONResponse({"error": {"message": "the database is full"}}, 500)
        self.feedback.append(await request.json())
        return JSONResponse({}, 201)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization"))
        if self.key and self.keys[-1] != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        if self.busy:
            self.busy -= 1
            return JSONResponse({"error": {"message": "full"}}, 503, headers={"Retry-After": str(self.busy_s)})
        reply = REPLIES[body["messages"][-1]["content"]]
        if reply.status != 200:
            headers = {"Retry-After": str(reply.retry_after_s)} if reply.retry_after_s else {}
            return JSONResponse({"error": {"message": reply.error or "limit"}}, reply.status, headers=headers)
        return StreamingResponse(self.events(reply), media_type="text/event-stream")

    async def events(self, reply: Reply) -> AsyncIterator[str]:
        """The first piece at once, the others when `go_on` is set."""

        def event(**chunk: Any) -> str:
            return f"data: {json.dumps({'id': 'chatcmpl-1', **chunk})}\n\n"

        for piece in reply.pieces:
            yield event(choices=[{"delta": {"content": piece}}])
            while not self.go_on.is_set():
                await asyncio.sleep(0.01)
        if reply.error:
            yield event(error={"message": reply.error})
        elif reply.extension:
            yield event(choices=[{"delta": {}, "finish_reason": "stop"}], assistant=reply.extension)
            yield "data: [DONE]\n\n"


@pytest.fixture
def stub() -> Iterator[Stub]:
    yield Stub()


@pytest.fixture
def address(stub: Stub) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(stub.app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the stub did not start"
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened in English; whatever its policy of content forbids fails the test."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce", viewport={"width": 1100, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def look(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "TrustedHTML" in message.text:
            faults.append(message.text)

    page.on("console", look)
    page.goto(address)
    yield page
    context.close()
    assert faults == []


def ask(page: Page, question: str) -> Locator:
    """Ask, wait for the end of the answer, and return it."""
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    answer = page.locator(".answer").last
    expect(answer).to_have_attribute("aria-busy", "false")
    return answer


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def test_an_answer_is_markdown_with_markers_that_are_buttons(page: Page) -> None:
    answer = ask(page, "markdown")
    assert answer.locator(".text strong").all_inner_texts() == ["5 days", "Refund"]
    assert answer.locator(".text li").all_inner_texts() == ["Open the payment", "Choose Refund"]
    assert answer.locator(".text td").all_inner_texts() == ["Visa", "5"]
    assert answer.locator(".text button").all_inner_texts() == ["[1]"]
    link = answer.locator(".text a")
    assert link.get_attribute("href") == "https://pay.example/refunds"
    assert (link.get_attribute("rel"), link.get_attribute("target")) == ("noopener noreferrer nofollow", "_blank")


def test_nothing_in_an_answer_runs_or_loads(page: Page, address: str) -> None:
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    answer = ask(page, "attack")
    page.wait_for_timeout(200)
    assert page.evaluate("'hacked' in window") is False
    assert answer.locator(".text :is(img, script, div, b, a[href], [onclick], [onmouseover])").count() == 0
    assert [url for url in loaded if not url.startswith(f"{address}/")] == []
    text = answer.locator(".text").inner_text()
    assert "<img src=x" in text and "<script>hacked=1</script>" in text and "Your card <CARD_1> and" in text
    assert answer.locator(".text button").all_inner_texts() == ["[1]", "[1]"]


def test_the_policy_would_stop_a_script_that_got_through(browser: Browser, address: str) -> None:
    """The second lock: no string becomes HTML or a handler."""
    page = browser.new_page()
    page.goto(address)
    with pytest.raises(PlaywrightError, match="requires 'TrustedHTML'"):
        page.evaluate("document.body.innerHTML = '<img src=x>'")
    with pytest.raises(PlaywrightError, match="requires 'TrustedScript'"):
        page.evaluate("document.body.setAttribute('onclick', 'hacked=1')")
    page.close()


def test_text_appears_while_it_is_written_and_half_a_marker_does_not(page: Page, stub: Stub) -> None:
    stub.go_on.clear()
    page.locator("#question").fill("breaks")
    page.locator("#question").press("Enter")
    answer = page.locator(".answer")
    expect(answer.locator(".text")).to_have_text("Refunds take")
    assert answer.get_attribute("aria-busy") == "true"
    assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
    assert page.locator("#announcement").inner_text() == ""
    page.locator("#stop").click()
    expect(answer.locator(".badge")).to_have_text("Stopped")
    stub.go_on.set()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Take **5", "Take **5**"),
        ("Take **5 days**", "Take **5 days**"),
        ("Take **", "Take"),
        ("5 days. [", "5 days."),
        ("5 days. [1", "5 days."),
        ("5 days. [1]", "5 days. [1]"),
        ("See [our site](https://pay", "See"),
        ("See [our site](https://pay.example)", "See [our site](https://pay.example)"),
        ("First:\n-", "First:"),
        ("First:\n\n1.", "First:"),
        ("Days:\n\n| a | b |\n|--", "Days:"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n| 3", "| a | b |\n|---|---|\n| 1 | 2 |"),
    ],
)
def test_what_is_half_written_waits(page: Page, written: str, shown: str) -> None:
    script = "async (written) => (await import('/page/markdown.js')).settled(written)"
    assert page.evaluate(script, written) == shown


def test_a_block_that_is_finished_stays_the_same_element(page: Page, stub: Stub) -> None:
    """It does not flicker, and text selected in it stays selected."""
    stub.go_on.clear()
    page.locator("#question").fill("blocks")
    page.locator("#question").press("Enter")
    blocks = page.locator(".answer .text > p")
    expect(blocks).to_have_text(["One.", "Two"])
    blocks.first.evaluate("(node) => { node.isTheSame = true }")
    stub.go_on.set()
    expect(blocks).to_have_text(["One.", "Two and three."])
    assert blocks.first.evaluate("(node) => node.isTheSame")


def test_the_answer_is_announced_once_when_it_is_finished(page: Page) -> None:
    ask(page, "plain")
    assert page.locator("#announcement").text_content() == "Refunds take 5 days."
    assert page.locator("#log").get_attribute("aria-live") is None


def test_a_citation_opens_the_article_at_the_place(page: Page) -> None:
    ask(page, "plain").locator(".text button").click()
    expect(page.locator("#article mark")).to_have_text("Refunds take 5 days.")
    expect(page.locator("#article mark")).to_be_in_viewport()
    expect(page.locator("#article h3")).not_to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).to_be_hidden()
    expect(page.locator(".text button")).to_be_focused()


def test_the_notice_says_how_an_answer_was_made_and_the_route_where_there_is_none(page: Page) -> None:
    badge = ask(page, "markdown").locator(".badge")
    assert badge.inner_text() == "Written from our articles."
    assert badge.get_attribute("title") == "release-1 · adapter-1 · index-1"
    assert ask(page, "plain").locator(".badge").inner_text() == "From our help centre"


def test_figures_that_no_article_confirms_are_named(page: Page) -> None:
    answer = ask(page, "figures")
    assert answer.locator(".unsupported").inner_text() == "Not confirmed by our articles: 15 days · 2 EUR"
    page.locator("#language").click()
    assert answer.locator(".unsupported").inner_text() == "未在帮助中心文章中得到证实： 15 days · 2 EUR"


def test_a_handoff_looks_different(page: Page) -> None:
    usual, handoff = ask(page, "plain"), ask(page, "stolen")
    background = "(node) => getComputedStyle(node).backgroundColor"
    assert page.locator(".answer").first.evaluate(background) != handoff.evaluate(background)
    assert handoff.get_attribute("data-route") == "handoff" and usual.count() == 1
    assert handoff.locator(".badge").inner_text() == "A colleague of ours has to look at this."


def test_a_thumb_and_a_correction_reach_the_service_and_can_be_changed(page: Page, stub: Stub) -> None:
    answer = ask(page, "plain")
    down = answer.get_by_role("button", name="Not helpful")
    down.click()
    answer.get_by_label("Incomplete").check()
    answer.get_by_label("What would be right?").fill("It takes 6 days.")
    answer.get_by_role("button", name="Send feedback").click()
    expect(answer.get_by_text("Thank you for your feedback.")).to_be_visible()
    expect(answer.locator("form")).to_be_hidden()
    answer.get_by_role("button", name="Change").click()
    answer.get_by_label("Wrong").check()
    answer.get_by_label("What would be right?").fill("")
    answer.get_by_role("button", name="Send feedback").click()
    expect(answer.locator("form")).to_be_hidden()
    answer.get_by_role("button", name="Helpful", exact=True).click()
    expect(down).to_have_attribute("aria-pressed", "false")
    answer.get_by_role("button", name="Helpful", exact=True).click()
    expect(answer.get_by_text("Your feedback was withdrawn.")).to_be_visible()
    assert [tuple(sent.values()) for sent in stub.feedback] == [
        ("chatcmpl-1", "down", None, None),
        ("chatcmpl-1", "down", "incomplete", "It takes 6 days."),
        ("chatcmpl-1", "down", "wrong", ""),
        ("chatcmpl-1", "up", None, None),
        ("chatcmpl-1", None, None, None),
    ]
    assert list(stub.feedback[0]) == ["id", "thumb", "reason", "correction"]


def test_feedback_that_was_not_kept_says_so(page: Page, stub: Stub) -> None:
    stub.feedback_fails = True
    answer = ask(page, "plain")
    answer.get_by_role("button", name="Not helpful").click()
    expect(answer.get_by_text("Your feedback was not sent. the database is full")).to_be_visible()
    expect(answer.get_by_role("button", name="Not helpful")).to_have_attribute("aria-pressed", "false")


def test_a_busy_service_is_asked_again_once_by_itself(page: Page, stub: Stub) -> None:
    stub.busy = 1
    page.locator("#question").fill("plain")
    page.locator("#question").press("Enter")
    expect(page.get_by_text("Many people are asking right now.")).to_be_visible()
    expect(page.get_by_role("timer")).to_have_text("1")
    expect(page.locator(".answer .text")).to_have_text("Refunds take 5 days. [1]")
    assert (len(stub.requests), page.locator(".question").count()) == (2, 1)


def test_a_service_that_stays_busy_waits_for_the_customer(page: Page, stub: Stub) -> None:
    stub.busy, stub.busy_s = 2, 1
    page.locator("#question").fill("plain")
    page.locator("#question").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Too many questions for now.")
    assert len(stub.requests) == 2
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .text")).to_have_text("Refunds take 5 days. [1]")


def test_a_wait_of_hours_is_not_counted_down(page: Page, stub: Stub) -> None:
    answer = ask(page, "spent")
    assert (
        answer.get_by_role("alert").inner_text()
        == "We could not answer. Too many questions for now. Please come back later."
    )
    assert len(stub.requests) == 1


def test_a_wait_can_be_stopped(page: Page, stub: Stub) -> None:
    stub.busy, stub.busy_s = 1, 60
    page.locator("#question").fill("plain")
    page.locator("#question").press("Enter")
    expect(page.get_by_role("timer")).to_be_visible()
    page.locator("#stop").click()
    expect(page.locator(".badge")).to_have_text("Stopped")
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("question", "kept", "said"),
    [
        ("breaks", "Refunds take", "We could not answer. the engine has ended"),
        ("cut", "Refunds take", "We could not answer. The answer was cut off."),
        ("down", "", "We could not answer. the index is broken"),
    ],
)
def test_an_answer_that_fails_stays_as_far_as_it_came(
    page: Page, stub: Stub, question: str, kept: str, said: str
) -> None:
    answer = ask(page, question)
    assert (answer.locator(".text").inner_text(), answer.get_by_role("alert").inner_text()) == (kept, said)
    answer.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_text(said)
    assert len(stub.requests) == 2
    ask(page, "plain")
    assert [message["content"] for message in stub.requests[-1]["messages"]] == ["plain"]


def test_a_key_comes_from_the_fragment_and_leaves_the_address(page: Page, stub: Stub, address: str) -> None:
    stub.key = "sk-1"
    answer = ask(page, "plain")
    assert "A key is needed." in answer.get_by_role("alert").inner_text()
    page.goto(f"{address}/#key=sk-2")
    assert "Your key was not accepted." in ask(page, "plain").get_by_role("alert").inner_text()
    page.goto(f"{address}/#key=sk-1")
    expect(page).to_have_url(f"{address}/")
    assert ask(page, "plain").locator(".text").inner_text() == "Refunds take 5 days. [1]"
    page.reload()
    ask(page, "plain")
    assert stub.keys == [None, "Bearer sk-2", "Bearer sk-1", "Bearer sk-1"]
    assert page.evaluate("localStorage.apiKey || ''") == ""


def test_a_conversation_has_an_id_of_its_own_and_no_user(page: Page, stub: Stub) -> None:
    ask(page, "plain")
    ask(page, "figures")
    page.locator("#new").click()
    ask(page, "plain")
    ids = [request["metadata"]["conversation"] for request in stub.requests]
    assert ids[0] == ids[1] != ids[2]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", ids[0])
    assert [len(request["messages"]) for request in stub.requests] == [1, 3, 1]
    assert list(stub.requests[0]) == ["model", "stream", "messages", "metadata"]


def test_chinese_is_spoken_and_written(page: Page, browser: Browser, address: str) -> None:
    context = browser.new_context(locale="zh-CN")
    chinese = context.new_page()
    chinese.goto(address)
    assert chinese.get_by_role("button", name="发送").is_visible()
    assert chinese.locator("html").get_attribute("lang") == "zh"
    answer = ask(chinese, "zh")
    assert answer.locator("strong").inner_text() == "5天。"
    assert answer.locator(".text").inner_text() == "退款需要5天。之后3~5天到账，节假日7~10天。"
    assert answer.locator(".badge").inner_text() == "根据帮助中心的文章作答。"
    context.close()


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 780), (550, 400), (320, 256)])
def test_a_small_screen_does_not_scroll_sideways(page: Page, width: int, height: int) -> None:
    """550 by 400 is a laptop at 200%, and 320 by 256 one at 400%."""
    page.set_viewport_size({"width": width, "height": height})
    assert not scrolls_sideways(page)
    ask(page, "attack")
    answer = ask(page, "markdown")
    answer.get_by_role("button", name="Not helpful").click()
    expect(answer.locator("form")).to_be_visible()
    assert not scrolls_sideways(page)
    main = page.locator("main")
    assert main.evaluate("(node) => node.scrollWidth <= node.clientWidth")
    answer.locator(".text button").click()
    expect(page.locator("#article mark")).to_be_in_viewport()
    assert not scrolls_sideways(page)


def test_the_widget_opens_in_the_page_of_another_site(page: Page, address: str, stub: Stub) -> None:
    page.goto(f"{address.replace('127.0.0.1', 'localhost')}/shop")
    launcher = page.locator("assistant-widget .launcher")
    expect(launcher).to_have_accessible_name("Open chat")
    assert page.locator("iframe").count() == 0
    assert page.evaluate("Object.keys(window).filter((name) => !before.includes(name))") == ["before"]
    assert launcher.evaluate("(node) => [node.offsetWidth, getComputedStyle(node).visibility]") == [56, "visible"]
    launcher.click()
    chat = page.frame_locator("assistant-widget iframe")
    expect(chat.locator("#question")).to_be_focused()
    expect(launcher).to_have_attribute("aria-expanded", "true")
    assert chat.locator("h1").evaluate("(node) => node.offsetWidth") == 1  # for screen readers only
    chat.locator("#question").fill("plain")
    chat.locator("#question").press("Enter")
    expect(chat.locator(".answer .text")).to_have_text("Refunds take 5 days. [1]")
    chat.locator(".text button").click()
    page.keyboard.press("Escape")
    expect(chat.locator("#dialog")).to_be_hidden()
    expect(page.locator("assistant-widget .panel")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("assistant-widget .panel")).to_be_hidden()
    expect(launcher).to_be_focused()
    launcher.click()
    expect(chat.locator(".answer .text")).to_have_text("Refunds take 5 days. [1]")
    expect(chat.locator("#question")).to_be_focused()


def test_the_widget_fills_a_phone(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{address.replace('127.0.0.1', 'localhost')}/shop")
    page.locator("assistant-widget .launcher").click()
    box = page.locator("assistant-widget .panel").bounding_box()
    assert box == {"x": 0, "y": 0, "width": 320, "height": 640}
    assert not page.locator("assistant-widget .launcher").is_visible()
    page.get_by_role("button", name="Close chat").click()
    expect(page.locator("assistant-widget .launcher")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, address: str, scheme: Any) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE}: npm install --no-save axe-core, or name axe.min.js in AXE_CORE")
    page.emulate_media(color_scheme=scheme)
    assert violations(page) == []
    for question in ("markdown", "figures", "stolen", "breaks", "spent"):
        ask(page, question)
    page.locator(".answer").first.get_by_role("button", name="Not helpful").click()
    page.get_by_label("Wrong").first.check()
    page.mouse.move(0, 0)
    assert violations(page) == []
    page.locator(".text button").first.click()
    expect(page.locator("#article mark")).to_be_visible()
    assert violations(page) == []
    page.goto(f"{address.replace('127.0.0.1', 'localhost')}/shop")
    page.locator("assistant-widget .launcher").click()
    expect(page.frame_locator("iframe").locator("#question")).to_be_focused()
    assert violations(page, "assistant-widget") == []
    page.goto(f"{address}/?embed")
    assert violations(page) == []


def violations(page: Page, part: str = "html") -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("(part) => axe.run(part)", part)["violations"]
    return [f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def test_the_third_party_scripts_are_the_released_files() -> None:
    table = (PAGE / "vendor" / "README.md").read_text(encoding="utf-8")
    for name, digest in re.findall(r"^\| (\S+\.js) .* `([0-9a-f]{64})` \|$", table, re.MULTILINE):
        assert hashlib.sha256((PAGE / "vendor" / name).read_bytes()).hexdigest() == digest
    named = re.findall(r"^\| (\S+\.js) ", table, re.MULTILINE)
    assert named == sorted(path.name for path in (PAGE / "vendor").glob("*.js"))


def test_every_text_is_there_in_both_languages() -> None:
    english, chinese = (PAGE / "texts.js").read_text(encoding="utf-8").split("  zh: {")
    keys = [re.findall(r"(?<=[\s{,])(\w+): \"", part) for part in (english, chinese)]
    assert sorted(keys[0]) == sorted(keys[1])
    used = "".join(path.read_text(encoding="utf-8") for path in (*PAGE.glob("*.js"), PAGE / "index.html"))
    assert [key for key in keys[0] if len(re.findall(rf"\b{key}\b", used)) < 3] == []
