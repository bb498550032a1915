"""One training run, from logs to an adapter: what `assistant train` does, and the nightly job."""

import json
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from assistant import prompt, releases
from assistant.base_models import fingerprint, languages, load_tokenizer, prepare
from assistant.live_index import open_index
from assistant.prompt import Message, Role
from assistant.redaction import Redactor
from assistant.releases import Release
from assistant.settings import Settings
from eval.cases import read_cases
from finetune import dataset
from finetune.adapter import mergeable, record_of, started_from, unservable
from finetune.cleaning.split import HeldOut, check_leaks
from finetune.logs import BadLine, Columns, Conversation, log_files, read_logs
from finetune.recipe import Recipe
from finetune.train import Result, trackers, train
from finetune.turns import Turn
from retrieval.errors import NotReady
from retrieval.files import alone, content_id, sha256


def train_on_logs(
    settings: Settings,
    logs: Sequence[Path],
    recipe: Recipe,
    say: Callable[[str], None],
    columns: Columns | None = None,
    only: Container[Path] | None = None,
    cases: Sequence[Path] = (),
    release: Release | None = None,
    least: int = 1,
    twins_aside: bool = False,
) -> Result | None:
    """Train on `logs` and publish the adapter if none is live for this base.

    Of the files that `logs` names only those in `only` are read, if it is given. With `release` its index is searched
    and its adapter is the one called `live`, and nothing is published. Under `least` answers to learn from nothing is
    trained.

    The same logs, recipe, base model, index and prompt give the same run, which is not repeated, and goes on where it
    was if it was killed. `columns` are those of ticket exports; `cases` are to be evaluated on, so nothing that is
    learned may be a twin of them: with `twins_aside` such conversations are set aside. Of several processes under
    `accelerate launch` the first prepares the data, and only it returns a result.

    Raises:
        NotReady: There are fewer than `least` answers.
        InputError: A log file is missing, nothing in the logs can be learned from, or, where `twins_aside` is not set,
            a case has a twin in them or in what the adapter to continue learned.
        SupportError: Training diverged, or memory ran out.
        StorageError: The disk refused. In each case nothing was published.
    """
    import torch
    from accelerate import PartialState

    trackers(recipe)  # before hours of preparing data
    go_live, release = release is None, release or releases.live(settings.releases)
    source = prepare(settings.base, settings.models)
    written = settings.base_languages or languages(settings.base)
    start = started_from(recipe, settings.adapters, release.adapter, settings.base, source)
    files = [path for path in log_files(logs) if only is None or path in only]
    hashes = {"logs": _hashes(files), "cases": _hashes(cases)}
    inputs = [fingerprint(source), prompt.ID, recipe.model_dump_json(), json.dumps(hashes), release.index or ""]
    inputs += [str(columns), start.name if start else "", str(settings.passages), str(settings.reranker), str(written)]
    inputs += [str(twins_aside)]
    inputs += [_code()]
    run = settings.runs / content_id(*inputs)
    # The others wait for the first, which may prepare data for hours.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    with alone(run) if state.is_main_process else nullcontext():
        state.wait_for_everyone()  # one is alone with the run now, whoever waited for its lock
        result = _finished(run, settings.adapters)
        if result:
            say(f"adapter {result.adapter} was trained on these logs before; nothing to do")
        else:
            with state.main_process_first():
                rows = dataset.dataset(run)
                if rows is None:
                    entries = read_logs(logs, columns, only)
                    held_out = [held for file in cases for held in _held_out(file)]
                    if start and held_out and not twins_aside:
                        check_leaks(_learned_before(settings, start.name), held_out)
                    rows = _prepare(
                        settings, entries, recipe, source, run, release.index, written, held_out, twins_aside, say
                    )
            answers = dataset.answers(run)
            if answers < least:
                raise NotReady(f"{answers} answers to learn from, fewer than the {least} that a training needs")
            facts = {
                "run": run.name,
                "continued_from": start.name if start else None,
                "index": release.index,
                "languages": list(written),
                **hashes,
                "data": rows.counts,
            }
            result = train(
                settings.base, source, rows.training, rows.validation, recipe, settings.adapters, run, facts, start, say
            )
            if result is None:
                return None
            say(_told(result))
        if not state.is_main_process:
            return None
        if go_live:
            _publish(settings, result, recipe, say)
    return result


def _hashes(files: Sequence[Path]) -> list[dict[str, str]]:
    return [{"name": path.name, "sha256": sha256(path)} for path in files]


def _code() -> str:
    """Names the code that makes examples out of logs, so that data of an older one are not taken for it."""
    root = Path(__file__).parents[1]
    files = [path for folder in ("assistant", "finetune") for path in sorted((root / folder).rglob("*"))]
    return content_id(*(sha256(path) for path in files if path.suffix in (".py", ".yaml", ".jsonl")))


def _finished(run: Path, adapters: Path) -> Result | None:
    path = run / "result.json"
    if not path.exists():
        return None
    result = Result(**json.loads(path.read_text(encoding="utf-8")))
    return result if (adapters / result.adapter).is_dir() else None


def _prepare(
    settings: Settings,
    logs: Iterable[Conversation | BadLine],
    recipe: Recipe,
    source: str,
    run: Path,
    index_id: str | None,
    written: Sequence[str],
    held_out: Sequence[HeldOut],
    twins_aside: bool,
    say: Callable[[str], None],
) -> dataset.Dataset:
    if index_id is None:
        say("no index is live: training on bare question and answer pairs, without passages")
    rows = dataset.prepare(
        run,
        logs,
        open_index(settings, index_id) if index_id else None,
        recipe,
        load_tokenizer(source),
        written,
        settings.passages,
        held_out=held_out,
        earlier=_earlier(settings, run),
        twins_aside=twins_aside,
    )
    for kind, count in rows.counts.items():
        say(f"  {count:6} {kind}")
    say(f"what was set aside, and the topics: {run / dataset.FOLDER}")
    return rows


def _held_out(cases: Path) -> list[HeldOut]:
    """The questions of evaluation cases, redacted as the logs are."""
    found = []
    for case in read_cases(cases):
        said = case.conversation()
        texts = Redactor().conversation([message["content"] for message in said])
        roles: list[Role] = ["user" if message["role"] == "user" else "assistant" for message in said]
        messages = [Message(role, text) for role, text in zip(roles, texts, strict=True)]
        found.append(HeldOut.conversation(f"{cases.name}: {case.id}", messages))
    return found


def _learned_before(settings: Settings, adapter: str | None) -> list[Turn]:
    """What the adapter learned of its logs, and those that it continued, as far as they are still there."""
    found: list[Turn] = []
    while adapter and (settings.adapters / adapter).exists():
        record = record_of(settings.adapters, adapter)
        found += dataset.turns_of(settings.runs / str(record.get("run")))
        adapter = record.get("continued_from")
    return found


def _earlier(settings: Settings, run: Path) -> list[Path]:
    """The folders of earlier runs whose adapters were live at some time, newest first.

    What the others learned was not good enough to serve, and shall not come back by replay.
    """
    served = {releases.read(settings.releases, entry.release).adapter for entry in releases.history(settings.releases)}
    ended = [path for path in settings.runs.glob("*/result.json") if path.parent != run]
    ended = [path for path in ended if json.loads(path.read_text(encoding="utf-8"))["adapter"] in served]
    return [path.parent for path in sorted(ended, key=lambda path: path.stat().st_mtime, reverse=True)]


def _publish(settings: Settings, result: Result, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Make the adapter live if none is for this base, it can be served, and it learned something."""
    adapter = result.adapter
    release = releases.live(settings.releases)  # as it is now: another run may have ended since
    if release.adapter is not None and release.base == settings.base:
        if release.adapter != adapter:
            say(
                f"adapter {adapter} is kept; {release.adapter} stays live; to serve it: assistant release propose "
                f"--adapter {adapter}"
            )
        return
    refused = unservable(recipe.peft_fields)
    if refused and not (settings.merged and mergeable(recipe.peft_fields)):
        merged = "; it can be served merged: --merged, or ASSISTANT_MERGED=1" if mergeable(recipe.peft_fields) else ""
        say(f"adapter {adapter} is kept and not live: {refused}{merged}")
        return
    if result.loss_before and result.loss_after and result.loss_after >= result.loss_before:
        say(
            f"adapter {adapter} is kept and not live: held-out answers are no likelier than before; give more logs, or "
            f"a lower learning_rate (now {recipe.learning_rate})"
        )
        return
    releases.publish(settings.releases, adapter=adapter, base=settings.base, prompt=prompt.ID)
    say(f"adapter {adapter} is live")


def _told(result: Result) -> str:
    held_out = f"held-out loss {result.loss_before} → {result.loss_after}; " if result.loss_after is not None else ""
    return (
        f"{result.steps} steps in {result.seconds:.0f} s, {result.tokens_per_second:.0f} tokens/s; {held_out}"
        f"{result.peak_memory_gib:.1f} GiB at most"
    )
