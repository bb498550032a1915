"""The commands that train, and that measure what training did."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from assistant.options import existing, forget_shapes, live_adapter, print_json, read, settings_options, share_cores
from finetune.nights import STEPS


@click.command()
@settings_options("base", "encoder")
@click.option(
    "--logs",
    type=existing,
    multiple=True,
    required=True,
    help="JSONL, JSON or CSV file, or folder of them; may be repeated.",
)
@click.option("--columns", type=existing, help="YAML file: what the columns of ticket exports hold.")
@click.option(
    "--cases", type=existing, multiple=True, help="Evaluation cases; a log that holds a twin of one ends the run."
)
@click.option("--recipe", type=existing, help="YAML file; the README lists its fields.")
@click.option("--max-examples", type=click.IntRange(1), help="Answers drawn from the logs at most.")
@click.option("--max-steps", type=click.IntRange(1), help="Optimiser steps at most.")
@click.option("--minutes", type=float, help="Minutes of optimisation at most.")
@click.option("--continue-from", help="Adapter to start with, or `live` for the one that serves.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    logs: tuple[Path, ...],
    columns: Path | None,
    cases: tuple[Path, ...],
    recipe: Path | None,
    max_examples: int | None,
    max_steps: int | None,
    minutes: float | None,
    continue_from: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an adapter on support logs, in the prompt it will serve in.

    \b
    Reads   conversations as JSONL or JSON (OpenAI messages, ShareGPT, Alpaca, LLaMA-Factory), CSV ticket exports
    Cleans  personal data out, duplicates, answers not worth learning, suspicious bursts; all of it counted and kept
    Trains  with the passages that the live index finds; without an index on bare question and answer pairs

    The adapter goes live if none is live for this base yet. A run that was killed goes on where it was.
    """
    from finetune.logs import read_columns
    from finetune.recipe import read_recipe

    forget_shapes()
    from finetune.run import train_on_logs

    overrides = {"max_examples": max_examples, "max_steps": max_steps, "minutes": minutes}
    chosen = read_recipe(recipe, **overrides, continue_from=continue_from)
    trained = train_on_logs(
        read(options),
        logs,
        chosen,
        say=lambda text: click.echo(text, err=as_json),
        columns=read_columns(columns) if columns else None,
        cases=cases,
    )
    if as_json and trained:
        print_json(asdict(trained))


@click.command()
@settings_options("base")
@click.argument("adapter", required=False)
def merge(adapter: str | None, **options: Any) -> None:
    """Merge ADAPTER (by default the live one) into its base, as a model that any engine serves.

    It is merged into the weights it was trained on, in bf16: of an NF4 base the dequantised ones.
    """
    from finetune import adapter as adapters

    settings = read(options)
    folder = adapters.merge(settings.adapters, adapter or live_adapter(settings), settings.models)
    click.echo(f"the merged model is in {folder}")


@click.command("adapter")
@settings_options()
@click.argument("adapter", required=False)
@click.option("--parity", "with_parity", is_flag=True, help="Also start vLLM, and compare its answers with peft's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate_adapter(adapter: str | None, with_parity: bool, as_json: bool, **options: Any) -> None:
    """Measure what ADAPTER (by default the live one) learned, and what it forgot.

    \b
    With and without the adapter, in one run:
    loss on the answers held out from training, by kind of example
    perplexity and accuracy on 200 general questions, in Chinese and English
    and how many of the made-up secrets that were planted in training it gives away
    """
    from dataclasses import replace

    forget_shapes()
    from finetune.measure import measure, parity

    settings = read(options)
    name = adapter or live_adapter(settings)
    report = measure(settings.adapters, name, settings.runs, settings.models, progress=not as_json)
    if with_parity:
        report = replace(report, parity=parity(settings, name))
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())


@click.command("cases")
@settings_options("encoder", "reranker")
@click.option(
    "--logs",
    type=existing,
    multiple=True,
    required=True,
    help="JSONL, JSON or CSV file, or folder of them; may be repeated.",
)
@click.option("--columns", type=existing, help="YAML file: what the columns of ticket exports hold.")
@click.option("--out", type=existing, required=True, help="JSONL file to write; OUT.todo.md is written beside it.")
@click.option(
    "--training", metavar="RUN", help="Run whose questions are left out, or `none`; by default the live adapter's."
)
@click.option("--limit", type=click.IntRange(1), help="At most this many candidates, drawn by the seed.")
@click.option("--seed", type=int, default=7, show_default=True, help="Of the draw.")
@click.option("--force", is_flag=True, help="Replace files that exist, edited or not.")
def evaluate_cases(
    logs: tuple[Path, ...],
    columns: Path | None,
    out: Path,
    training: str | None,
    limit: int | None,
    seed: int,
    force: bool,
    **options: Any,
) -> None:
    """Propose cases out of support logs, for people to check and edit.

    Customers' questions with agents' answers, cleaned as training cleans them; twins of what was trained on are left
    out. Each has a note on what to check; OUT.todo.md lists articles and topics that lack cases.
    """
    from finetune.logs import read_columns

    share_cores()
    from finetune.candidates import propose

    named = read_columns(columns) if columns else None
    propose(read(options), logs, out, click.echo, training, limit, seed, force, named)


@click.command()
@settings_options("base", "encoder")
@click.option(
    "--plan", type=existing, help="YAML file (default: nightly.yaml in the home); the README lists its fields."
)
@click.option("--dry-run", is_flag=True, help="Say what the night would do, and leave.")
@click.option(
    "--from", "again_from", type=click.Choice(STEPS), help="Make the outcome of this step and later ones anew."
)
@click.option("--explain", is_flag=True, help="Say why the last night ended as it did, and leave.")
@click.option(
    "--every", "every_h", type=click.FloatRange(min=0, min_open=True), help="Go on, a night every so many hours."
)
@click.option("--json", "as_json", is_flag=True, help="Print the night as JSON.")
def nightly(
    plan: Path | None,
    dry_run: bool,
    again_from: str | None,
    explain: bool,
    every_h: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Retrain on what is new, and promote the adapter if it is better: promoted, kept, waiting or failed.

    \b
    articles indexed anew → new logs and transcripts cleaned → a challenger trained
    champion and challenger asked the same cases → the gate's rules → tried in the running service
    → promoted, or kept with the reasons

    The same night again goes on where it was. Exit code 0, also for kept; 1 for failed; 75 while another night runs.
    """
    import sys
    import time

    from finetune import nights

    settings = read(options)
    if explain:
        last = nights.read_all(settings.home / "nights")[-1:]
        click.echo(nights.as_text(last[0]) if last else "there was no night yet")
        return
    share_cores()
    forget_shapes()
    from finetune.nightly import Busy
    from finetune.nightly import nightly as do_night
    from finetune.plan import read_plan

    path = plan or settings.home / "nightly.yaml"
    while True:
        began = time.monotonic()
        try:
            night = do_night(settings, read_plan(path), lambda text: click.echo(text, err=as_json), dry_run, again_from)
        except Busy as error:
            click.echo(f"assistant: {error}", err=True)
            sys.exit(75)
        if as_json:
            print_json(night and asdict(night))
        elif night:
            click.echo(nights.as_text(night))
        if every_h is None:
            sys.exit(1 if night and night.word == "failed" else 0)
        time.sleep(max(0.0, every_h * 3600 - (time.monotonic() - began)))
