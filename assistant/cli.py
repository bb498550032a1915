"""The command line: thin over plain functions, and the one place that may import every package.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assistant import commands
from assistant.options import existing, print_json, read, settings_options
from retrieval.errors import SupportError

if TYPE_CHECKING:
    from assistant.settings import Settings
    from retrieval.calibration import LabelledQuestion
    from retrieval.index import Mode
    from retrieval.language import Language

ROOT = Path(__file__).parent.parent
EXAMPLES_A_MINUTE = 100
"""More than two CPU cores train on, so that the first run does not prepare what it cannot use."""


class _Group(click.Group):
    """Turns the errors that a user can meet into one line and exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except SupportError as error:
            click.secho(f"assistant: {error}", fg="red", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("\nassistant: stopped", err=True)
            sys.exit(130)


_api_key = click.option(
    "--api-key", envvar="ASSISTANT_API_KEY", help="Where the service needs one [ASSISTANT_API_KEY]."
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="payment-support-assistant")
@click.option("--verbose", is_flag=True, help="Show the log messages of the libraries too.")
def main(verbose: bool) -> None:
    """A support assistant for payment companies: retrieval and a fine-tuned adapter.

    \b
    First time:   assistant run            index, train, serve and ask, with the sample company
    By hand:      assistant index --knowledge DIR
                  assistant train --logs FILE
                  assistant serve
                  assistant chat

    Every setting is also an environment variable, ASSISTANT_HOME for instance; the README lists them.
    """
    _quiet(verbose)


@main.command()
@settings_options("base", "encoder", "host", "port")
@click.option("--knowledge", type=existing, default=ROOT / "knowledge", help="Folder of articles.")
@click.option("--logs", type=existing, multiple=True, help="Support logs (default: the synthetic sample).")
@click.option("--minutes", type=float, default=4.5, show_default=True, help="Training time at most.")
def run(knowledge: Path, logs: tuple[Path, ...], minutes: float, **options: Any) -> None:
    """Index, train an adapter, serve, ask three questions, and stay up.

    What an earlier run has done is reused.
    """
    from assistant.engine_process import check_port

    settings = read(options)
    check_port(settings.host, settings.port)
    click.echo(f"Everything is kept under {settings.home}")
    click.secho("\n1/3 Index", bold=True)
    _child(settings, "index", "--knowledge", str(knowledge))
    click.secho("\n2/3 Train", bold=True)
    files = [f"--logs={path}" for path in logs] or [
        f"--logs={_sample_logs(settings)}",
        f"--cases={settings.home / 'samples' / 'cases.jsonl'}",
        *(f"--cases={path}" for path in sorted((ROOT / "eval" / "company").glob("*.jsonl"))),
    ]
    _child(settings, "train", *files, f"--minutes={minutes}", f"--max-examples={int(minutes * EXAMPLES_A_MINUTE)}")
    click.secho("\n3/3 Serve", bold=True)
    _serve(settings, _ask_three)


@main.command()
@settings_options("encoder", "false_miss_rate", "small_index")
@click.option(
    "--knowledge",
    type=existing,
    multiple=True,
    required=True,
    help="Folder, file or zip archive of articles and question lists; may be repeated.",
)
@click.option("--exclude", multiple=True, help="File or folder under it to leave out; may be repeated.")
@click.option("--questions", type=existing, help="Customers' questions in the case format, to fit the gate on too.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def index(
    knowledge: tuple[Path, ...], exclude: tuple[str, ...], questions: Path | None, as_json: bool, **options: Any
) -> None:
    """Build the index over the help articles, and make it live.

    \b
    Reads   Markdown, MDX, HTML, text, PDF, DOCX; question lists as CSV, XLSX, JSONL
    Fits    the weight of words, and the threshold between hit and miss, to these articles
    Keeps   the vectors of passages that did not change; a crash leaves the live index as it was
    """
    _index(read(options), knowledge, exclude, questions, as_json)


@main.command()
@settings_options("encoder", "reranker")
@click.argument("query")
@click.option("-n", "--count", type=click.IntRange(1, 50), default=5, show_default=True, help="Passages to show.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Only passages in this language.")
@click.option("--tag", help="Only passages of articles with this tag.")
@click.option("--folder", help="Only passages of articles under this folder.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "dense", "bm25"]),
    default="hybrid",
    show_default=True,
    help="What to search by: meaning and words, or one of them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(
    query: str,
    count: int,
    lang: "Language | None",
    tag: str | None,
    folder: str | None,
    mode: "Mode",
    as_json: bool,
    **options: Any,
) -> None:
    """Show the passages found for QUERY, and whether they count as a hit.

    A score is the cosine plus the weighted share of the query's words. The decision is a hit, ambiguous or a miss,
    by the probability that a passage answers; the line says which bounds it fell between, and what spoke for it (+)
    and against it (-).
    """
    from dataclasses import asdict

    from assistant.redaction import redact
    from retrieval.index import Filters

    _share_cores()
    from assistant.live_index import open_live

    live = open_live(read(options))
    result = live.search(redact(query), count, mode=mode, filters=Filters(lang, tag, folder))
    if as_json:
        print_json({"hit": result.hit, **asdict(result)})
        return
    click.secho(f"{result.decision.upper()}: probability {result.probability:.2f}", bold=True)
    click.echo(f"   {result.why}")
    for n, found in enumerate(result.found, 1):
        passage = found.passage
        click.secho(f"\n{n}. {found.score:.3f}  {passage.label}", bold=True)
        place = f", {passage.place}" if passage.place else ""
        click.secho(f"   {passage.path}{place}; cosine {found.dense:.3f}, words {found.lexical:.2f}", dim=True)
        click.echo("   " + passage.text.replace("\n", "\n   "))


@main.command()
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
    from dataclasses import asdict

    from finetune.logs import read_columns
    from finetune.night import train_on_logs
    from finetune.recipe import read_recipe

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


@main.command()
@settings_options("base")
@click.argument("adapter", required=False)
def merge(adapter: str | None, **options: Any) -> None:
    """Merge ADAPTER (by default the live one) into its base, as a model that any engine serves.

    It is merged into the weights it was trained on, in bf16: of an NF4 base the dequantised ones.
    """
    settings = read(options)
    click.echo(f"the merged model is in {_merged(settings, adapter or _live_adapter(settings))}")


@main.command()
@settings_options("base", "encoder", "host", "port", "engine_url", "merged")
def serve(**options: Any) -> None:
    """Serve the live release: the chat endpoint and the chat page."""
    _serve(read(options), lambda url: None)


@main.command()
@click.argument("question", required=False)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the service.")
@click.option("--model", default="assistant", show_default=True, help="Way to answer; see GET /v1/models.")
@_api_key
@click.option("--json", "as_json", is_flag=True, help="Print the whole reply as JSON; needs QUESTION.")
def chat(question: str | None, url: str, model: str, api_key: str | None, as_json: bool) -> None:
    """Ask a running service QUESTION, or talk with it until an empty line."""
    from assistant.client import complete

    if as_json:
        if question is None:
            raise click.UsageError("--json needs a QUESTION")
        print_json(complete(url, model, [{"role": "user", "content": question}], api_key))
        return
    messages: list[dict[str, str]] = []
    while text := question or click.prompt("you", default="", show_default=False).strip():
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": _ask(url, model, messages, api_key)})
        if question:
            return


@main.group()
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
    _share_cores()
    from assistant.live_index import open_live

    report = evaluate_retrieval(open_live(read(options)), asked, progress=not as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())


@evaluate.command("adapter")
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

    from finetune.measure import measure, parity

    settings = read(options)
    name = adapter or _live_adapter(settings)
    report = measure(settings.adapters, name, settings.runs, settings.models, progress=not as_json)
    if with_parity:
        report = replace(report, parity=parity(settings, name))
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())


@evaluate.command()
@click.option("--cases", type=existing, required=True, help="JSONL file in the case format.")
@click.option("--arms", default="rag,rag+lora", show_default=True, help="Of: rag, rag+lora, base, lora.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Only cases in this language.")
@click.option("--limit", type=click.IntRange(1), help="At most this many cases, drawn with a fixed seed.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the service.")
@_api_key
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=existing, help="Also write every answer with its scores to this JSONL file.")
def ab(
    cases: Path,
    arms: str,
    lang: str | None,
    limit: int | None,
    url: str,
    api_key: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare ways to answer on the same cases, through the service that customers use."""
    from eval.ab import compare
    from eval.cases import read_cases

    report = compare(read_cases(cases, lang, limit), arms.split(","), url, api_key)
    if out:
        report.write_answers(out)
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.as_text())


def _quiet(verbose: bool) -> None:
    """Our own messages as they are; those of libraries from warnings up, or all of them."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    for package in ("assistant", "eval", "finetune", "retrieval"):
        logging.getLogger(package).setLevel(logging.INFO)
    if not verbose:
        for library in ("bitsandbytes", "sentence_transformers", "transformers", "torchao"):
            logging.getLogger(library).setLevel(logging.ERROR)
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _share_cores() -> None:
    """Let idle threads of torch and FAISS sleep instead of spin; each has an OpenMP runtime of its own.

    Must come before either is imported. Training alone is a fifth faster with spinning threads.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _index(
    settings: "Settings", knowledge: tuple[Path, ...], exclude: tuple[str, ...], questions: Path | None, as_json: bool
) -> None:
    import time
    from dataclasses import asdict

    from assistant.redaction import redact_article
    from assistant.releases import publish
    from retrieval.build import build
    from retrieval.documents import knowledge_files

    started = time.monotonic()
    knowledge_files(knowledge, exclude)  # a wrong folder shall not wait for the encoder
    labelled = _labelled(questions) if questions else []
    from retrieval.encoder import Encoder

    built = build(
        knowledge,
        settings.indexes,
        Encoder(settings.encoder, settings.models),
        redact_article,
        exclude=exclude,
        labelled=labelled,
        false_miss_rate=settings.false_miss_rate,
        small=settings.small_index,
        progress=not as_json,
    )
    publish(settings.releases, index=built.id)
    if as_json:
        print_json(asdict(built))
        return
    for skip in built.skipped:
        click.echo(f"skipped {skip.path}: {skip.reason}", err=True)
    languages = ", ".join(f"{count} {language}" for language, count in built.languages.items() if count)
    skipped = f", {len(built.skipped)} skipped" if built.skipped else ""
    click.echo(
        f"index {built.id} is live: {built.documents} documents ({languages}{skipped}), {built.passages} passages, "
        f"{built.tokens} tokens; {time.monotonic() - started:.0f} s"
    )
    weights = ", ".join(f"{weight:g} {language}" for language, weight in built.weights.items())
    click.echo(f"  vectors     {built.vectors}")
    click.echo(f"  words       weigh {weights or 'nothing'}")
    click.echo(f"  hit or miss {built.gate.summary()}")


def _labelled(path: Path) -> "list[LabelledQuestion]":
    """The questions of a case file, for the gate."""
    from eval.cases import read_cases
    from eval.retrieval import question
    from retrieval.calibration import LabelledQuestion

    return [LabelledQuestion(question(case).text, case.relevant, case.lang) for case in read_cases(path)]


def _sample_logs(settings: "Settings") -> Path:
    """The synthetic logs of the sample company, written once."""
    import runpy

    folder = settings.home / "samples"
    if not (folder / "cases.jsonl").exists():
        script = ROOT / "samples" / "make_logs.py"
        runpy.run_path(str(script))["write"](folder)
    return folder / "logs"


def _live_adapter(settings: "Settings") -> str:
    from assistant.releases import live
    from retrieval.errors import NotReady

    adapter = live(settings.releases).adapter
    if adapter is None:
        raise NotReady("there is no adapter yet; run: assistant train --logs FILE")
    return adapter


def _merged(settings: "Settings", adapter: str) -> Path:
    from finetune.adapter import merge

    return merge(settings.adapters, adapter, settings.models)


def _child(settings: "Settings", *arguments: str) -> None:
    """Run another command to its end in a process of its own, which gives its memory back."""
    chosen = {name: getattr(settings, name) for name in ("home", "base", "encoder")}
    environment = {f"ASSISTANT_{name.upper()}": str(value) for name, value in chosen.items()}
    command = [sys.executable, "-m", "assistant.cli", *arguments]
    code = subprocess.run(command, env={**os.environ, **environment}).returncode
    if code:
        sys.exit(code)


def _serve(settings: "Settings", on_ready: Callable[[str], None]) -> None:
    _share_cores()
    if settings.merged and settings.engine_url is None:
        from assistant.engine_process import check_port

        check_port(settings.host, settings.port)
        _child(settings, "merge", _live_adapter(settings))
    from assistant.serve import serve as serve_release

    serve_release(settings, on_ready, say=click.echo)


def _ask_three(url: str) -> None:
    log = logging.getLogger("assistant")
    log.setLevel(logging.WARNING)  # the answers below say what the log would
    for question in (
        "How many days do I have to request a refund?",
        "提现到银行卡要多久到账？",
        "Can I buy bitcoin with you?",
    ):
        click.secho(f"\nyou: {question}", bold=True)
        _ask(url, "assistant", [{"role": "user", "content": question}], os.environ.get("ASSISTANT_API_KEY"))
    log.setLevel(logging.INFO)


def _ask(url: str, model: str, messages: list[dict[str, str]], api_key: str | None) -> str:
    """Ask, print the answer as it comes, then its route and citations; return the answer."""
    from assistant.client import stream

    text = ""
    extension: dict[str, Any] = {}
    for chunk in stream(url, model, messages, api_key):
        extension = chunk.get("assistant", extension)
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content", "")
            text += piece
            click.echo(piece, nl=False)
    click.echo()
    click.secho(f"  route: {extension.get('route')}, adapter: {extension.get('adapter')}", dim=True)
    for citation in extension.get("citations", []):
        where = f"{citation['path']} ({citation['heading']})"
        click.secho(f"  [{citation['n']}] {where}: {citation['quote']}", dim=True)
    return text


main.add_command(commands.key)
main.add_command(commands.release)
main.add_command(commands.transcripts)

if __name__ == "__main__":
    main()
