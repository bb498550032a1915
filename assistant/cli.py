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
from assistant.options import api_key_option, existing, live_adapter, print_json, read, settings_options, share_cores
from eval import commands as evaluation
from finetune import commands as training
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

    if not query.strip():
        raise click.BadParameter("it is empty; ask something", param_hint="QUERY")
    share_cores()
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
@settings_options("base", "encoder", "host", "port", "engine_url", "merged")
def serve(**options: Any) -> None:
    """Serve the live release: the chat endpoint and the chat page."""
    _serve(read(options), lambda url: None)


@main.command()
@click.argument("question", required=False)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the service.")
@click.option("--model", default="assistant", show_default=True, help="Way to answer; see GET /v1/models.")
@api_key_option
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


def _child(settings: "Settings", *arguments: str) -> None:
    """Run another command to its end in a process of its own, which gives its memory back."""
    chosen = {name: getattr(settings, name) for name in ("home", "base", "encoder")}
    environment = {f"ASSISTANT_{name.upper()}": str(value) for name, value in chosen.items()}
    command = [sys.executable, "-m", "assistant.cli", *arguments]
    code = subprocess.run(command, env={**os.environ, **environment}).returncode
    if code:
        sys.exit(code)


def _serve(settings: "Settings", on_ready: Callable[[str], None]) -> None:
    share_cores()
    if settings.merged and settings.engine_url is None:
        from assistant.engine_process import check_port

        check_port(settings.host, settings.port)
        _child(settings, "merge", live_adapter(settings))
    from functools import partial

    from assistant.serve import serve as serve_release
    from eval import judging
    from eval.online import guard
    from finetune import operations

    nights = settings.home / "nights"
    folders = nights, settings.releases, settings.evaluations
    pages = [partial(judging.router, settings.evaluations), partial(operations.router, *folders)]
    serve_release(settings, on_ready, say=click.echo, pages=pages, guard=guard, more_metrics=partial(_metrics, nights))


def _metrics(folder: Path) -> bytes:
    """What the nights came to, for Prometheus; nothing where a file is damaged, which the log says."""
    from finetune import night_metrics, nights

    try:
        return night_metrics.render(nights.read_all(folder), nights.read_checked(folder))
    except SupportError as error:
        logging.getLogger("assistant").error("%s", error)
        return b""


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


evaluation.evaluate.add_command(training.evaluate_adapter)
evaluation.evaluate.add_command(training.evaluate_cases)
main.add_command(training.train)
main.add_command(training.merge)
main.add_command(training.nightly)
main.add_command(evaluation.evaluate)
main.add_command(commands.key)
main.add_command(commands.release)
main.add_command(commands.transcripts)
main.add_command(commands.replay)

if __name__ == "__main__":
    main()
