"""The commands of those who run the service: API keys, releases, transcripts."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assistant.options import existing, print_json, read, settings_options

if TYPE_CHECKING:
    from assistant.state import State


@click.group()
def key() -> None:
    """API keys of those who may ask."""


@key.command("add")
@settings_options()
@click.argument("name")
@click.option("--requests-per-minute", type=click.IntRange(1), help="Requests a minute at most (default: 600).")
@click.option("--tokens-per-day", type=click.IntRange(1), help="Tokens a day at most (default: without limit).")
@click.option("--admin", is_flag=True, help="The key may also read metrics and delete customers' data.")
def add_key(
    name: str, requests_per_minute: int | None, tokens_per_day: int | None, admin: bool, **options: Any
) -> None:
    """Make a key for the tenant NAME and print it: only its hash is kept.

    A running service takes it within a second; the first key closes the service to everybody without one. For the
    chat page and the widget, which have none, write a section `anonymous` into the file; the README shows it.
    """
    from assistant import access

    path = read(options).keys_file
    click.echo(access.add_key(path, name, requests_per_minute, tokens_per_day, admin))
    click.echo(f"its hash is in {path}; the key itself is shown only now", err=True)


@click.group()
def release() -> None:
    """What serves: an adapter, an index and a prompt together."""


@release.command("list")
@settings_options()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_releases(as_json: bool, **options: Any) -> None:
    """The releases that were live, oldest first."""
    from assistant import releases

    folder = read(options).releases
    live = releases.live(folder).id
    entries = releases.history(folder)
    if as_json:
        print_json([{"at": entry.at.isoformat(), "release": entry.release} for entry in entries])
        return
    for i, entry in enumerate(entries):
        mark = "  (live)" if i == len(entries) - 1 and entry.release == live else ""
        click.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.release}{mark}")


@release.command()
@settings_options()
@click.argument("name")
def show(name: str, **options: Any) -> None:
    """The parts of the release NAME, or of the one that is `live`."""
    from assistant import releases

    folder = read(options).releases
    print_json(asdict(releases.live(folder) if name == "live" else releases.read(folder, name)))


@release.command()
@settings_options()
@click.argument("name")
def promote(name: str, **options: Any) -> None:
    """Make the release NAME live; a running service takes it within a second."""
    from assistant import releases

    click.echo(f"release {releases.promote(read(options).releases, name).id} is live")


@release.command()
@settings_options()
def rollback(**options: Any) -> None:
    """Go back to the release that was live before; a running service does so within a second."""
    from assistant import releases

    click.echo(f"release {releases.rollback(read(options).releases).id} is live again")


@click.group()
def transcripts() -> None:
    """What was answered, and what customers thought of it."""


@transcripts.command()
@settings_options()
@click.argument("file", type=existing, required=False)
@click.option("--since", type=click.DateTime(), help="Only from this time on, UTC.")
def export(file: Path | None, since: datetime | None, **options: Any) -> None:
    """Write transcripts with their feedback to FILE as log lines to train on; without FILE, print them."""
    from retrieval.files import write_text

    state, count = _state(options), 0

    def lines() -> Iterator[str]:
        nonlocal count
        for line in state.export(since and since.replace(tzinfo=UTC)):
            count += 1
            yield json.dumps(line, ensure_ascii=False) + "\n"

    try:
        if file is None:
            sys.stdout.writelines(lines())
            return
        write_text(file, lines())
        click.echo(f"{count} transcripts are in {file}")
    finally:
        state.close()


@transcripts.command()
@settings_options()
@click.argument("customer")
@click.option("--tenant", default="local", show_default=True, help="Whose customer; `local` where there are no keys.")
def forget(customer: str, tenant: str, **options: Any) -> None:
    """Delete the transcripts and feedback of CUSTOMER, by the id that came with the requests as `user`."""
    from assistant.state import pseudonym, secret

    state = _state(options)
    try:
        deleted = state.forget(pseudonym(tenant, customer, secret(read(options).home)))
    finally:
        state.close()
    click.echo(f"{deleted} transcripts deleted")


@transcripts.command()
@settings_options()
@click.option("--days", type=click.IntRange(1), required=True, help="Delete what is older.")
def prune(days: int, **options: Any) -> None:
    """Delete old transcripts with their feedback; `ASSISTANT_RETENTION_DAYS` has the service do it every day."""
    state = _state(options)
    try:
        deleted = state.prune(datetime.now(UTC) - timedelta(days=days))
    finally:
        state.close()
    click.echo(f"{deleted} transcripts deleted")


def _state(options: dict[str, Any]) -> "State":
    from assistant.state import State

    return State(read(options).database_url)
