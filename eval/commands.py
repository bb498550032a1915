"""The commands that measure what is served."""

from pathlib import Path
from typing import Any

import click

from assistant.options import api_key_option, existing, print_json, read, settings_options, share_cores


@click.group()
def evaluate() -> None:
    """Measure the assistant."""


@evaluate.command()
@settings_options("encoder", "reranker")
@click.option("--cases", type=existing, required=True, help="JSONL file in the case format; needs `relevant`.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Only cases in this language.")
@click.option("--limit", type=click.IntRange(1), help="At most this many cases, drawn with a fixed seed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retrieval(cases: Path, lang: str | None, limit: int | None, as_json: bool, **options: Any) -> None:
    """Measure the live index: what it finds, hits and misses, and how fast.

    Beside the search that serves, meaning alone and words alone are measured on the same cases. Cases with an empty
    `relevant` are out of scope: they should be misses.
    """
    from eval.cases import read_cases
    from eval.retrieval import evaluate as evaluate_retrieval

    asked = read_cases(cases, lang, limit)
    share_cores()
    from assistant.live_index import open_live

    report = evaluate_retrieval(open_live(read(options)), asked, progress=not as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())


@evaluate.command()
@settings_options("encoder")
@click.option(
    "--cases", type=existing, multiple=True, required=True, help="JSONL file in the case format; may be repeated."
)
@click.option(
    "--arms",
    default="rag,rag+lora",
    show_default=True,
    help="Of: rag, rag+lora, base, lora, quoted. The first is what the second is compared to.",
)
@click.option("--develop", type=existing, multiple=True, help="Other cases, to choose each arm's prompt on.")
@click.option(
    "--prompts",
    help="With --develop those to choose from (default: plain,short,one-example,three-examples); else the first is "
    "asked with (default: plain).",
)
@click.option("--primary", default="facts", show_default=True, help="The metric that decides; see the report's names.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Only cases in this language.")
@click.option("--limit", type=click.IntRange(1), help="At most this many cases, drawn with a fixed seed.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer; by default the service's.")
@click.option("--perplexity", is_flag=True, help="Also how surprising each reference is to each arm.")
@click.option("--about", default="", help="What the cases are, for the reader of the report.")
@click.option("--entailment", help="Cross-encoder that judges whether passages entail an answer: folder or hub id.")
@click.option("--judge-url", help="OpenAI-compatible address of a judge model; questions and answers are sent there.")
@click.option("--judge-model", default="judge", show_default=True, help="Its name there.")
@click.option("--judge-key", envvar="ASSISTANT_JUDGE_KEY", help="Its key [ASSISTANT_JUDGE_KEY].")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the service.")
@api_key_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ab(
    cases: tuple[Path, ...],
    arms: str,
    develop: tuple[Path, ...],
    prompts: str | None,
    primary: str,
    lang: str | None,
    limit: int | None,
    max_tokens: int | None,
    perplexity: bool,
    about: str,
    entailment: str | None,
    judge_url: str | None,
    judge_model: str,
    judge_key: str | None,
    url: str,
    api_key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare ways to answer on the same cases, through the service that customers use.

    \b
    rag, rag+lora    with passages: the base alone, the adapter
    base, lora       without
    quoted           the nearest sentences of the passages, no model

    Writes report.html, report.json and report.md, and every answer with its scores. What was answered before is not
    asked again: a run that was stopped goes on.
    """
    from dataclasses import asdict

    from eval import ab as comparison
    from eval import report
    from eval.asking import Asker
    from eval.cases import read_cases
    from eval.judge import Judge
    from eval.training import trained
    from retrieval.files import sha256

    settings = read(options)
    plan = comparison.Plan(
        cases=read_cases(cases, lang, limit),
        arms=arms.split(","),
        development=read_cases(develop, lang) if develop else (),
        prompts=prompts.split(",") if prompts else comparison.PROMPTS if develop else ("plain",),
        primary=primary,
        perplexity=perplexity,
        about=about,
        files={str(path): sha256(path) for path in cases},
    )
    asker = Asker(url, settings.evaluations / "asked", api_key, max_tokens)
    share_cores()
    from retrieval.encoder import Encoder

    models = comparison.Models(
        Encoder(settings.encoder, settings.models),
        entailment,
        Judge(judge_url, judge_model, judge_key, cache=settings.evaluations / "judged.jsonl") if judge_url else None,
    )
    record, curves = trained(settings.adapters, settings.runs, asker.parts["adapter"])
    results = comparison.evaluate(
        plan, asker, models, settings.evaluations, {"training": record}, curves, progress=not as_json
    )
    if as_json:
        print_json(asdict(results))
    else:
        click.echo(report.as_text(results))
        click.echo(f"\nthe report: {settings.evaluations / results.id / 'report.html'}")


@evaluate.command("report")
@settings_options()
@click.argument("run")
def evaluate_report(run: str, **options: Any) -> None:
    """Write the report of RUN, an evaluation's id, anew: with what people have judged on its judging page."""
    import json
    from dataclasses import replace

    from assistant.state import State
    from eval import report
    from eval.cases import read_cases
    from eval.judge import agreement_with_people
    from eval.judging import people

    settings = read(options)
    folder = settings.evaluations / run
    results = report.read(folder)
    groups = {case.id: case.group for case in read_cases(folder / "cases.jsonl") if case.group}
    state = State(settings.database_url)
    try:
        votes = list(state.votes(run))
    finally:
        state.close()
    results = replace(results, people=people(votes, results.baseline, results.candidate, groups))
    if results.judge:
        scores = map(json.loads, (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines())
        rows = (row for row in scores if row["arm"] == results.candidate and "judge" in row)  # both arms answered
        judged = {row["case"]: row["judge"]["value"] for row in rows}
        agreed = agreement_with_people(judged, (results.baseline, results.candidate), votes)
        results = replace(results, judge=results.judge | {"agreement": agreed})
    page = report.write(results, folder)
    click.echo(report.as_text(results))
    click.echo(f"\nthe report: {page}")


@evaluate.command("online")
@settings_options()
@click.option("--experiment", type=existing, help="YAML file (default: experiment.yaml in the home).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate_online(as_json: bool, **options: Any) -> None:
    """Read the experiment on customers: each arm, and whether it differs from the control yet.

    One may look as often as one likes: the intervals hold at all times at once.
    """
    from datetime import UTC, datetime

    from assistant.experiment import read_experiment, read_stops
    from assistant.state import State
    from eval.online import online

    settings = read(options)
    experiment = read_experiment(settings.experiment_file)
    stops, state = read_stops(settings.experiment_file), State(settings.database_url)
    try:
        report = online(state, experiment, datetime.now(UTC), stops)
    finally:
        state.close()
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())
