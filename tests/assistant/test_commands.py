"""The commands of those who run the service, as they type them."""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant import releases
from assistant.access import Access
from assistant.cli import main
from assistant.pseudonym import pseudonym, secret
from assistant.state import State, Transcript


def run(home: Path, *arguments: str) -> Result:
    """What `assistant …` says and does, for the home `home`."""
    command, *rest = arguments
    return CliRunner().invoke(main, [command, rest[0], "--home", str(home), *rest[1:]])


def recorded(home: Path, *ages_days: int) -> State:
    """A database with an answer to customer-7 of each age."""
    state = State(f"sqlite:///{home / 'state.db'}")
    for number, age in enumerate(ages_days):
        state.record(
            Transcript(
                id=f"chatcmpl-{number}",
                at=datetime.now(UTC) - timedelta(days=age),
                tenant="shop",
                customer=pseudonym("shop", "customer-7", secret(home)),
                conversation=None,
                lang="en",
                arm="assistant",
                route="grounded",
                reason=None,
                release="r1",
                messages=({"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "yes"}),
                made={},
            )
        )
    state.flush()
    return state


def test_a_key_is_printed_once_and_opens_the_service_for_its_tenant(tmp_path: Path) -> None:
    done = run(tmp_path, "key", "add", "shop", "--requests-per-minute", "5", "--tokens-per-day", "100", "--admin")
    assert done.exit_code == 0, done.output
    key = done.stdout.strip()
    assert key.startswith("sk-") and key not in (tmp_path / "keys.yaml").read_text()
    tenant = Access(tmp_path / "keys.yaml").tenant(f"Bearer {key}", "127.0.0.1")
    assert (tenant.name, tenant.requests_per_minute, tenant.tokens_per_day, tenant.admin) == ("shop", 5, 100, True)


def test_a_tenant_cannot_have_any_name(tmp_path: Path) -> None:
    done = run(tmp_path, "key", "add", "a shop")
    assert done.exit_code == 1 and "a shop" in done.output
    assert not (tmp_path / "keys.yaml").exists()


def test_releases_are_listed_shown_and_gone_back_to(tmp_path: Path) -> None:
    first = releases.publish(tmp_path / "releases", index="i1")
    second = releases.publish(tmp_path / "releases", index="i2")
    lines = run(tmp_path, "release", "list").stdout.splitlines()
    assert [line.split("  ")[1:] for line in lines] == [[first.id], [second.id, "(live)"]]
    assert json.loads(run(tmp_path, "release", "show", "live").stdout)["index"] == "i2"
    assert json.loads(run(tmp_path, "release", "show", first.id).stdout)["index"] == "i1"
    assert run(tmp_path, "release", "rollback").stdout == f"release {first.id} is live again\n"
    assert run(tmp_path, "release", "promote", second.id).stdout == f"release {second.id} is live\n"
    assert [entry["release"] for entry in json.loads(run(tmp_path, "release", "list", "--json").stdout)] == [
        *(first.id, second.id, first.id, second.id)
    ]


def test_an_adapter_that_is_not_live_is_proposed_and_promoted(tmp_path: Path) -> None:
    folder = tmp_path / "releases"
    releases.publish(folder, index="i1", adapter="a1", base="b", prompt="p1")
    (tmp_path / "adapters" / "a2").mkdir(parents=True)
    record = {"base": "b", "prompt": "p2", "served": "adapter"}
    (tmp_path / "adapters" / "a2" / "training.json").write_text(json.dumps(record))
    said = run(tmp_path, "release", "propose", "--adapter", "a2").stdout
    assert releases.live(folder).adapter == "a1"
    assert run(tmp_path, *said.split("assistant ")[1].split()).exit_code == 0
    assert (releases.live(folder).index, releases.live(folder).adapter, releases.live(folder).prompt) == (
        "i1",
        "a2",
        "p2",
    )
    refused = run(tmp_path, "release", "propose", "--adapter", "a3")
    assert refused.exit_code == 1 and f"{tmp_path / 'adapters' / 'a3'} of the adapter a3 is missing" in refused.output


def test_proposals_stand_at_the_end_of_the_list_with_their_night_and_signature(tmp_path: Path) -> None:
    folder = tmp_path / "releases"
    first = releases.publish(folder, index="i1")
    second = releases.propose(folder, needs_approval=True, index="i2", night="7", report="night-7")

    def listed() -> list[list[str]]:
        return [line.split("  ")[1:] for line in run(tmp_path, "release", "list").stdout.splitlines()]

    origin = ["night 7", "report night-7"]
    assert listed() == [[first.id, "(live)"], [second.id, "(unsigned)", *origin]]
    refused = run(tmp_path, "release", "promote", second.id)
    assert refused.exit_code == 1
    assert f"run: assistant release approve {second.id} --by" in refused.output
    assert "is approved by Mia since 2" in run(tmp_path, "release", "approve", second.id, "--by", "Mia").stdout
    assert listed()[1] == [second.id, "(proposed)", *origin, "approved by Mia"]
    assert run(tmp_path, "release", "promote", second.id).exit_code == 0
    assert listed() == [[first.id], [second.id, "(live)", *origin, "approved by Mia"]]
    line = json.loads(run(tmp_path, "release", "list", "--json").stdout)[1]
    assert {name: line[name] for name in line if name != "at"} == {
        "release": second.id,
        "state": "live",
        "night": "7",
        "report": "night-7",
        "approved_by": "Mia",
    }


def test_a_release_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    first = releases.publish(tmp_path / "releases", index="i1")
    second = releases.publish(tmp_path / "releases", index="i2")
    (tmp_path / "releases" / f"{first.id}.json").write_text("no json")
    lines = run(tmp_path, "release", "list").stdout.splitlines()
    assert [line.split("  ")[1:] for line in lines] == [[first.id, "(unreadable)"], [second.id, "(live)"]]


def test_the_difference_to_the_live_release_is_told_part_by_part(tmp_path: Path) -> None:
    first = releases.publish(tmp_path / "releases", index="i1")
    releases.publish(tmp_path / "releases", index="i2", adapter="a2")
    assert run(tmp_path, "release", "diff", first.id).stdout == "index   i1  →  i2\nadapter -  →  a2\n"
    assert run(tmp_path, "release", "diff", first.id, first.id).stdout == "the same\n"
    assert "there is no release 'r9'" in run(tmp_path, "release", "diff", "r9").output


def old_releases(home: Path) -> list[str]:
    """Three releases, each live a day longer ago than the next, with an index each."""
    made = [releases.publish(home / "releases", index=f"i{n}").id for n in range(3)]
    lines = []
    for n, name in enumerate(made):
        then = datetime.now(UTC) - timedelta(days=9 - n)
        lines.append(f"{then:%Y-%m-%dT%H:%M:%SZ} {name}\n")
        (home / "indexes" / f"i{n}").mkdir(parents=True)
        (home / "indexes" / f"i{n}" / "manifest.json").write_text("{}")
        os.utime(home / "indexes" / f"i{n}", (then.timestamp(), then.timestamp()))
    (home / "releases" / "history").write_text("".join(lines))
    return made


def test_old_releases_are_pruned_once_they_were_shown_and_confirmed(tmp_path: Path) -> None:
    first, *_ = old_releases(tmp_path)
    shown = f"release {first}\nindex   i0\n0.0 MB in all\n"
    prune = ["release", "prune", "--home", str(tmp_path), "--port", "0", "--keep", "2"]
    assert CliRunner().invoke(main, [*prune, "--dry-run"]).stdout == shown
    assert CliRunner().invoke(main, prune, input="n\n").exit_code == 1
    assert (tmp_path / "indexes" / "i0").exists()
    assert CliRunner().invoke(main, [*prune, "--yes"]).stdout == f"{shown}1 releases pruned, 0.0 MB freed\n"
    assert not (tmp_path / "indexes" / "i0").exists()
    assert CliRunner().invoke(main, prune).stdout == "nothing to prune\n"
    assert "(pruned)" in run(tmp_path, "release", "list").stdout


@contextmanager
def service(code: int, body: str) -> Iterator[str]:
    """The address of something that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_index_of_a_running_service_is_not_pruned(tmp_path: Path) -> None:
    """A service that cannot take the live release goes on with an old one, for days."""
    first, *_ = old_releases(tmp_path)
    with service(200, '{"ready": true, "index": "i0", "adapter": "a0"}') as url:
        done = run(tmp_path, "release", "prune", "--keep", "2", "--url", url, "--yes")
    assert f"release {first}" in done.stdout
    assert (tmp_path / "indexes" / "i0").exists()


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [(503, '{"ready": false, "reason": "the engine starts"}', "the engine starts"), (200, "hello", "is no assistant")],
)
def test_nothing_is_pruned_while_a_service_does_not_say_what_it_uses(
    tmp_path: Path, code: int, body: str, message: str
) -> None:
    old_releases(tmp_path)
    with service(code, body) as url:
        done = run(tmp_path, "release", "prune", "--keep", "2", "--url", url, "--yes")
    assert done.exit_code == 1 and message in done.output
    gone = run(tmp_path, "release", "prune", "--keep", "2", "--url", url, "--yes")
    assert gone.exit_code == 1 and "nothing answers at" in gone.output
    assert (tmp_path / "indexes" / "i0").exists()


def test_nothing_is_pruned_while_a_night_runs(tmp_path: Path) -> None:
    old_releases(tmp_path)
    (tmp_path / "nights").mkdir()
    with (tmp_path / "nights" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(tmp_path, "release", "prune", "--keep", "2", "--port", "0", "--yes")
    assert done.exit_code == 1 and "a night is running" in done.output
    assert (tmp_path / "indexes" / "i0").exists()


def test_an_adapter_that_was_trained_within_a_day_is_not_pruned(tmp_path: Path) -> None:
    old_releases(tmp_path)
    for name in ("a0", "a1", "a2"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "training.json").write_text("{}")
        os.utime(tmp_path / "adapters" / name, (0, 0))
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    (tmp_path / "runs" / "r1" / "result.json").write_text('{"adapter": "a0"}')
    done = run(tmp_path, "release", "prune", "--keep", "1", "--port", "0", "--dry-run")
    assert [line for line in done.stdout.splitlines() if line.startswith("adapter")] == ["adapter a1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("release", "rollback"), "there is nothing to go back to"),
        (("release", "promote", "r9"), "there is no release 'r9'"),
        (("release", "show", "r9"), "there is no release 'r9'"),
    ],
)
def test_a_release_that_is_not_there_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.exit_code == 1 and message in done.output and len(done.output.splitlines()) == 1


def test_transcripts_are_exported_to_a_file_or_printed(tmp_path: Path) -> None:
    recorded(tmp_path, 3, 1).close()
    file = tmp_path / "out.jsonl"
    assert run(tmp_path, "transcripts", "export", str(file)).stdout == f"2 transcripts are in {file}\n"
    lines = file.read_text().splitlines()
    assert [json.loads(line)["messages"][0]["content"] for line in lines] == ["question 0", "question 1"]
    since = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"
    assert run(tmp_path, "transcripts", "export", "--since", since).stdout.splitlines() == lines[1:]


def test_a_customer_is_forgotten_and_old_transcripts_are_deleted(tmp_path: Path) -> None:
    recorded(tmp_path, 100, 1).close()
    assert run(tmp_path, "transcripts", "prune", "--days", "90").stdout == "1 transcripts deleted\n"
    assert run(tmp_path, "transcripts", "forget", "customer-7").stdout == "0 transcripts deleted\n"
    assert run(tmp_path, "transcripts", "forget", "customer-7", "--tenant", "shop").stdout == "1 transcripts deleted\n"
    assert run(tmp_path, "transcripts", "export").stdout == ""
