import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from assistant import notification
from assistant.engine_process import free_port
from assistant.notification import notify, verify

SECRET = "whsec-of-the-test"
EVENT = {"event": "nightly.promoted", "night": "2026-11-24", "reasons": ["facts +0.05 [+0.01, +0.09]"]}


@dataclass
class Receiver:
    """A real receiver: answers one status after the other, then 204, and keeps what it was sent."""

    place: str
    statuses: list[int] = field(default_factory=list)
    silence_s: float = 0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.place}/hooks/token-in-the-path"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(notification, "_PAUSES_S", (0, 0))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            time.sleep(kept.silence_s)
            self.send_response(kept.statuses.pop(0) if kept.statuses else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Receiver(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield kept
    server.shutdown()
    server.server_close()


def test_the_receiver_gets_the_event_and_its_signature_verifies(receiver: Receiver) -> None:
    assert notify(receiver.url, SECRET, EVENT) is None
    [(headers, body)] = receiver.got
    assert json.loads(body) == EVENT
    assert headers["Content-Type"] == "application/json" and headers["Assistant-Event"] == "nightly.promoted"
    assert verify(SECRET, headers["Assistant-Signature"], body, time.time())


def test_a_signature_is_the_one_that_openssl_computes() -> None:
    """printf '1764000000.{}' | openssl dgst -sha256 -hmac secret"""
    signature = "b691197929ebc73b102d12f9a4689644cb2d1a38c9f2d1883b9f478077313f85"
    assert verify("secret", f"t=1764000000,v1={signature}", b"{}", 1764000000)


@pytest.mark.parametrize(("later_s", "genuine"), [(300, True), (301, False), (-300, True), (-301, False)])
def test_a_replay_outside_the_tolerance_does_not_verify(receiver: Receiver, later_s: int, genuine: bool) -> None:
    notify(receiver.url, SECRET, EVENT)
    [(headers, body)] = receiver.got
    header = headers["Assistant-Signature"]
    at = int(header.split(",")[0].removeprefix("t="))
    assert verify(SECRET, header, body, at + later_s) is genuine


def test_a_changed_body_time_or_secret_does_not_verify(receiver: Receiver) -> None:
    notify(receiver.url, SECRET, EVENT)
    [(headers, body)] = receiver.got
    header, now = headers["Assistant-Signature"], time.time()
    at = header.split(",")[0].removeprefix("t=")
    assert not verify(SECRET, header, body.replace(b"promoted", b"rejected"), now)
    assert not verify(SECRET, header.replace(at, str(int(at) + 1)), body, now)
    assert not verify("another", header, body, now)
    assert not verify("", header, body, now)


@pytest.mark.parametrize("header", ["", "t=1,v1=", "v1=00,t=1", "t=now,v1=" + "0" * 64, "t=１,v1=" + "0" * 64, "é"])
def test_what_is_no_signature_does_not_verify(header: str) -> None:
    assert not verify(SECRET, header, b"{}", 1)


def test_after_two_503_the_third_attempt_succeeds_with_the_same_id(receiver: Receiver) -> None:
    receiver.statuses = [503, 503]
    assert notify(receiver.url, SECRET, EVENT) is None
    assert len(receiver.got) == 3
    assert len({headers["Assistant-Id"] for headers, _ in receiver.got}) == 1


def test_the_same_event_has_the_same_id_and_another_one_another(receiver: Receiver) -> None:
    for event in (EVENT, EVENT, EVENT | {"night": "2026-11-25"}):
        notify(receiver.url, SECRET, event)
    one, again, other = (headers["Assistant-Id"] for headers, _ in receiver.got)
    assert one == again != other


def test_it_gives_up_after_three_attempts_and_says_why(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.statuses = [500, 502, 503, 503]
    failed = notify(receiver.url, SECRET, EVENT)
    assert failed == f"{receiver.place} answered 503, 3 times; the receiver has to be looked at"
    assert len(receiver.got) == 3
    assert caplog.messages == [f"the notification nightly.promoted was not delivered: {failed}"]


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404])
def test_what_another_attempt_would_not_change_is_not_tried_again(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    assert (
        notify(receiver.url, SECRET, EVENT) == f"{receiver.place} answered {status}; check the address and the secret"
    )
    assert len(receiver.got) == 1


def test_a_receiver_that_is_silent_is_tried_again(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "_TIMEOUT_S", 0.1)
    receiver.silence_s = 0.5
    assert "cannot be reached (timed out), 3 times" in str(notify(receiver.url, SECRET, EVENT))
    assert len(receiver.got) == 3


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "_PAUSES_S", (0, 0))
    failed = notify(f"http://127.0.0.1:{free_port()}", SECRET, EVENT)
    assert "cannot be reached ([Errno 111] Connection refused), 3 times" in str(failed)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://hooks.example/in", "http://hooks.example is not safe to send to"),
        ("ftp://127.0.0.1/in", "ftp://127.0.0.1 is not safe to send to"),
        ("hooks.example/in", "give an address that begins with https://"),
        ("https://[half", "its address cannot be read"),
        ("https://hooks.example:port/in", "its address cannot be read"),
        ("http://localhost/含汉字", "cannot stand in a request"),
        (
            "http://localhost/a token",
            "the address at http://localhost, or the name 'nightly.promoted', cannot stand in",
        ),
    ],
)
def test_an_address_that_is_not_safe_or_none_gets_nothing(url: str, told: str) -> None:
    assert told in str(notify(url, SECRET, EVENT))


def test_without_a_secret_nothing_is_sent(receiver: Receiver) -> None:
    assert "no secret" in str(notify(receiver.url, "", EVENT))
    assert receiver.got == []


def test_card_numbers_do_not_leave_whatever_they_stand_in(receiver: Receiver) -> None:
    misses = [{"label": "card 4111 1111 1111 1111", "count": 2, "4111111111111111": 4111111111111111}]
    assert (
        notify(receiver.url, SECRET, {"event": "nightly.kept", "misses": misses, "pair": ("4111111111111111",)}) is None
    )
    [(headers, body)] = receiver.got
    assert json.loads(body)["misses"] == [{"label": "card <CARD_1>", "count": 2, "<CARD_1>": "<CARD_1>"}]
    assert b"4111" not in body and "4111" not in str(headers)


def test_neither_the_secret_nor_a_path_is_logged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.statuses = [404]
    failed = str(notify(receiver.url, SECRET, EVENT))
    notify("https://user:password@[half/token-in-the-path", SECRET, EVENT)
    for private in (SECRET, "token-in-the-path", "password"):
        assert private not in caplog.text + failed
