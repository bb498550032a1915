"""The commands of those who run the service: API keys, releases, transcripts, replays."""

import fcntl
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assistant.options import api_key_option, existing, print_json, read, settings_options, share_cores

if TYPE_CHECKING:
    from assistant.releases import Pruned
    from assistant.settings import Settings
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
    """The releases that were live, oldest first, then those that are only proposed."""
    from assistant import canary, releases

    folder = read(options).releases
    live, trial = releases.live(folder).id, canary.read(folder)
    entries = releases.history(folder)
    found = [(entry.at, entry.release, "") for entry in entries]
    if found and found[-1][1] == live:
        found[-1] = (*found[-1][:2], "live")
    states = {trial.release: "canary"} if trial else {}
    proposed = releases.proposed(folder)
    found += [(releases.proposed_at(folder, name), name, states.get(name, "proposed")) for name in proposed]
    lines = [_listed(folder, *each) for each in found]
    if as_json:
        print_json(lines)
        return
    for (at, name, _), line in zip(found, lines, strict=True):
        told = [f"({line['state']})"] if line["state"] else []
        told += [f"{word} {line[word]}" for word in ("night", "report") if line[word]]
        told += [f"approved by {line['approved_by']}"] if line["approved_by"] else []
        click.echo("  ".join([f"{at:%Y-%m-%d %H:%M:%S}", name, *told]))


def _listed(folder: Path, at: datetime, name: str, state: str) -> dict[str, str | None]:
    from assistant import releases
    from retrieval.errors import InputError

    try:
        release, signed = releases.read(folder, name), releases.approved(folder, name)
    except InputError:  # the others shall be listed all the same; `show` tells what is wrong
        release, signed, state = releases.EMPTY, None, "unreadable"
    else:
        if releases.is_pruned(folder, name):
            state = "pruned"
        elif releases.waits(folder, name):
            state = "unsigned"  # whether it waits for a signature or was refused is the gate's to say: its report
    return {
        "at": at.isoformat(),
        "release": name,
        "state": state,
        "night": release.night,
        "report": release.report,
        "approved_by": signed.by if signed else None,
    }


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
@click.option("--adapter", required=True, help="Name of its folder under ASSISTANT_HOME/adapters.")
def propose(adapter: str, **options: Any) -> None:
    """Write the live release with another adapter, for `promote` to make live; nothing that serves changes."""
    from assistant import releases
    from assistant.live import training_record

    settings = read(options)
    record = training_record(settings, adapter)
    made = releases.propose(settings.releases, adapter=adapter, base=record["base"], prompt=record["prompt"])
    click.echo(f"release {made.id} is proposed; run: assistant release promote {made.id}")


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


@release.command()
@settings_options()
@click.argument("name")
def stop(name: str, **options: Any) -> None:
    """Take the release NAME off trial; its customers get the live release within a second."""
    from assistant import canary

    folder = read(options).releases
    canary.stop(folder, name, canary.Stopped(at=datetime.now(UTC), reason="a person stopped it"))
    click.echo(f"release {name} is not on trial")


@release.command("diff")
@settings_options()
@click.argument("one")
@click.argument("other", default="live")
def compare(one: str, other: str, **options: Any) -> None:
    """What the releases ONE and OTHER (by default the live one) do not have in common."""
    from assistant import releases

    folder = read(options).releases
    both = [releases.live(folder) if name == "live" else releases.read(folder, name) for name in (one, other)]
    differing = releases.diff(*both)
    for part, (before, after) in differing.items():
        click.echo(f"{part:8}{before or '-'}  →  {after or '-'}")
    if not differing:
        click.echo("the same")


@release.command()
@settings_options()
@click.argument("name")
@click.option("--by", required=True, help="Who signs; kept beside the release, without personal numbers.")
def approve(name: str, by: str, **options: Any) -> None:
    """Sign the release NAME, which a night proposed; `promote` makes it live."""
    from assistant import releases

    signed = releases.approve(read(options).releases, name, by)
    click.echo(f"release {name} is approved by {signed.by} since {signed.at}; run: assistant release promote {name}")


@release.command("prune")
@settings_options("host", "port")
@click.option("--keep", type=click.IntRange(1), required=True, help="Changes whose releases are kept.")
@click.option("--url", multiple=True, help="A service whose parts are kept; may be repeated (default: --host, --port).")
@api_key_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
def prune_releases(
    keep: int, url: tuple[str, ...], api_key: str | None, dry_run: bool, yes: bool, **options: Any
) -> None:
    """Delete releases that were not live in the last KEEP changes, with the indexes and adapters only they name.

    What serves, what `rollback` goes to, approved proposals, and what is younger than a day always stay.
    """
    from assistant import releases

    settings = read(options)
    _no_night(settings)
    places = (settings.releases, settings.indexes, settings.adapters, settings.models)
    used = {*_loaded(settings, url, api_key), *_trained(settings)}
    found = releases.prune(*places, keep, used, dry_run=True)
    _show(found)
    if dry_run or not any((found.releases, found.indexes, found.adapters)):
        return
    if not yes:
        click.confirm("delete them?", abort=True)
    gone = releases.prune(*places, keep, used)
    click.echo(f"{len(gone.releases)} releases pruned, {gone.freed_bytes / 1e6:.1f} MB freed")


def _show(found: "Pruned") -> None:
    kinds = {"release": found.releases, "index": found.indexes, "adapter": found.adapters, "merged": found.models}
    for kind, names in kinds.items():
        for name in names:
            click.echo(f"{kind:8}{name}")
    click.echo(f"{found.freed_bytes / 1e6:.1f} MB in all" if any(kinds.values()) else "nothing to prune")


def _no_night(settings: "Settings") -> None:
    """
    Raises:
        NotReady: A night is running, whose index may be an old one that no release names yet, or it left a release on
            trial.
    """
    from assistant import canary
    from retrieval.errors import NotReady

    if trial := canary.read(settings.releases):
        raise NotReady(
            f"the release {trial.release} is on trial until {trial.until:%Y-%m-%d %H:%M %Z}; prune when that has "
            f"ended, or run: assistant release stop {trial.release}"
        )
    path = settings.home / "nights" / ".lock"
    if not path.exists():
        return
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotReady(f"a night is running, says {path}; prune when it has ended") from None


def _loaded(settings: "Settings", urls: Sequence[str], key: str | None) -> set[str]:
    """The indexes and adapters of running services; of the one of the settings, if it runs.

    Raises:
        Overloaded: A service is not ready, and so does not say what it has loaded.
        EngineUnavailable: One that was named does not run.
    """
    from assistant.client import get
    from retrieval.errors import EngineUnavailable, InputError

    used: set[str] = set()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    for url in urls or (f"http://{host}:{settings.port}",):
        try:
            parts = json.loads(get(url, "/readyz", key))
            used |= {parts["index"], parts["adapter"]}
        except EngineUnavailable:
            if urls:
                raise
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{url} is no assistant, and what serves is not known; name it by --url") from None
    return used


def _trained(settings: "Settings") -> set[str]:
    """The adapters of runs that ended within a day: a night or a person is about to judge them."""
    from assistant.releases import YOUNG

    young = (datetime.now(UTC) - YOUNG).timestamp()
    ended = [path for path in settings.runs.glob("*/result.json") if path.stat().st_mtime >= young]
    return {json.loads(path.read_text(encoding="utf-8"))["adapter"] for path in ended}


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
    from assistant.pseudonym import pseudonym, secret

    state = _state(options)
    try:
        deleted = state.forget(pseudonym(tenant, customer, secret(read(options).home)))
    finally:
        state.close()
    click.echo(f"{deleted} transcripts deleted")


@transcripts.command()
@settings_options()
@click.option("--days", type=click.IntRange(1, 36500), required=True, help="Delete what is older.")
def prune(days: int, **options: Any) -> None:
    """Delete old transcripts with their feedback; `ASSISTANT_RETENTION_DAYS` has the service do it every day."""
    state = _state(options)
    try:
        deleted = state.prune(datetime.now(UTC) - timedelta(days=days))
    finally:
        state.close()
    click.echo(f"{deleted} transcripts deleted")


@click.command()
@settings_options("merged")
@click.argument("reply")
@click.option("--url", help="An engine that serves the adapter already (default: that of the settings, or a new one).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(reply: str, url: str | None, as_json: bool, **options: Any) -> None:
    """Answer the question behind REPLY, the id of an answer, once more by its release, and compare.

    Messages, token ids and text are the same if nothing has changed and the engine computes in fp32
    (ASSISTANT_ENGINE_DTYPE=float32); the exit code is then 0. Prompts, policy and settings are those of today: what
    differs is named.
    """
    share_cores()
    from assistant import replay as replays

    settings = read(options)
    done = replays.replay(settings, reply, lambda text: click.echo(text, err=True), url or settings.engine_url)
    if as_json:
        shown = {"same": done.same, "changed": done.changed, "first_difference": done.first_difference}
        print_json(shown | asdict(done))
    else:
        click.echo("\n".join(replays.lines(done)))
    if not done.same:
        sys.exit(1)


def _state(options: dict[str, Any]) -> "State":
    from assistant.state import State

    return State(read(options).database_url)
