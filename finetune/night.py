"""From logs to a live adapter, in one call: what `assistant train` does, and the nightly job will."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from assistant import prompt, releases
from assistant.base_models import fingerprint, languages, prepare
from assistant.live_index import open_index
from assistant.settings import Settings
from finetune import examples
from finetune.logs import log_files, read_logs
from finetune.recipe import Recipe
from finetune.train import Result, train
from retrieval.files import content_id, sha256, write_text


def train_on_logs(settings: Settings, logs: Sequence[Path], recipe: Recipe, say: Callable[[str], None]) -> Result:
    """Train on `logs` and publish the adapter if none is live for this base.

    The same logs, recipe, base model, index and prompt give the same run, which is then not repeated.

    Raises:
        InputError: A log file is missing, or nothing in the logs can be learned from.
        SupportError: Training diverged.
        StorageError: The disk refused. In each case nothing was published.
    """
    files = log_files(logs)
    release = releases.live(settings.releases)
    source = prepare(settings.base, settings.models)
    written = settings.base_languages or languages(settings.base)
    hashes = [(path.name, sha256(path)) for path in files]
    inputs = [fingerprint(source), prompt.ID, recipe.model_dump_json(), json.dumps(hashes), release.index or ""]
    run = settings.runs / content_id(*inputs, str(settings.passages), str(written))
    result = _finished(run, settings.adapters)
    if result:
        say(f"adapter {result.adapter} was trained on these logs before; nothing to do")
    else:
        result = _train(settings, logs, recipe, source, run, release.index, written, say)
    if release.adapter is None or release.base != settings.base:
        releases.publish(settings.releases, adapter=result.adapter, base=settings.base, prompt=prompt.ID)
        say(f"adapter {result.adapter} is live")
    elif release.adapter != result.adapter:
        say(f"adapter {result.adapter} is kept; {release.adapter} stays live")
    return result


def _finished(run: Path, adapters: Path) -> Result | None:
    path = run / "result.json"
    if not path.exists():
        return None
    result = Result(**json.loads(path.read_text(encoding="utf-8")))
    return result if (adapters / result.adapter).is_dir() else None


def _train(
    settings: Settings,
    logs: Sequence[Path],
    recipe: Recipe,
    source: str,
    run: Path,
    index_id: str | None,
    written: Sequence[str],
    say: Callable[[str], None],
) -> Result:
    index = None
    if index_id:
        index = open_index(settings, index_id)
    else:
        say("no index is live: training on bare question and answer pairs, without passages")
    prepared = examples.prepare(read_logs(logs), index, recipe, written, settings.passages)
    for kind, count in sorted(prepared.counts.items()):
        say(f"  {count:6} {kind}")
    if prepared.bad_lines:
        quarantine = run / "quarantine.jsonl"
        lines = "".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in prepared.bad_lines)
        write_text(quarantine, lines)
        first = prepared.bad_lines[0]
        say(f"{len(prepared.bad_lines)} malformed lines are in {quarantine}; the first: {first.place}: {first.reason}")
    facts = {"index": index_id, "logs": [str(path.name) for path in logs], "data": dict(prepared.counts)}
    result = train(settings.base, source, prepared.examples, recipe, settings.adapters, run, facts)
    held_out = f"held-out loss {result.loss_before} → {result.loss_after}; " if result.loss_after is not None else ""
    say(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.tokens_per_second:.0f} tokens/s; {held_out}"
        f"{result.peak_memory_gib:.1f} GiB at most"
    )
    return result
