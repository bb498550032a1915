"""The commands of those who run the service, as they type them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant import releases
from assistant.access import Access
from assistant.cli import main
from assistant.state import State, Transcript, pseudonym, secret


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
