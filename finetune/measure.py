"""What an adapter learned and what it forgot: `assistant evaluate adapter`.

The model is asked with the adapter and without it, in one run: loss on the answers held out from training, by kind of
example; a fixed set of general questions; and the canaries that were planted in training.
"""

import json
import math
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assistant.base_models import load_model, load_tokenizer, prepare, served_folder
from assistant.engine_process import EngineProcess
from assistant.prompt import tokens
from assistant.settings import Settings
from eval.intervals import Interval
from eval.paired import Pair, difference
from finetune.adapter import check_base, record_of, unservable
from finetune.attention import packing
from finetune.canaries import canaries, secret
from finetune.dataset import rows
from finetune.examples import Example
from finetune.general_set import GeneralQuestion, asked, held_out
from finetune.recipe import Recipe
from finetune.rows import Row, packed, token_losses, tokenise
from retrieval.errors import InputError

_TOGETHER = 8
"""Rows that are computed at once."""
_COMPARED = 12
"""Answers at most that vLLM and peft both give."""
_ANSWER_TOKENS = 48
_SECRET_TOKENS = 24
"""Tokens that a completion of a canary may take."""


@dataclass(frozen=True)
class Loss:
    """Of answers, in nats a token, before training and after."""

    before: float
    after: float
    answers: int

    @property
    def perplexities(self) -> tuple[float, float]:
        return math.exp(self.before), math.exp(self.after)


@dataclass(frozen=True)
class General:
    """A fixed set of general questions, before training and after."""

    loss: Loss
    perplexity_ratio: Interval
    """After over before; 95% bootstrap interval over questions."""
    accuracy_before: float
    """Share of questions whose right answer is likelier, a token, than each of three wrong ones; chance is .25."""
    accuracy_after: float
    accuracy_change: Interval


@dataclass(frozen=True)
class Parity:
    """Greedy answers in fp32: of vLLM, which serves, and of peft, which trained."""

    answers: int
    equal: int
    """Those that are the same, character by character."""


@dataclass(frozen=True)
class Report:
    adapter: str
    held_out: Loss | None
    """None where the run held no answers out."""
    kinds: dict[str, Loss]
    """The held-out answers by kind of example."""
    general: dict[str, General]
    """By language, and `all`."""
    canaries: int
    """Secrets that were planted in training."""
    memorised: int
    """Secrets that the model completed, greedily, from the words before them."""
    parity: Parity | None = None
    """None if it was not asked for."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        lines = [f"{self.adapter}", f"{'':34}{'before':>10}{'after':>10}{'n':>7}"]

        def row(name: str, before: float, after: float, n: int, note: str = "") -> None:
            lines.append(f"{name:34}{before:>10.3f}{after:>10.3f}{n:>7}  {note}".rstrip())

        if self.held_out:
            row("perplexity, held-out answers", *self.held_out.perplexities, self.held_out.answers)
        for kind, loss in sorted(self.kinds.items()):
            row(f"  loss, {kind}", loss.before, loss.after, loss.answers)
        for language, general in self.general.items():
            ratio, change = general.perplexity_ratio, general.accuracy_change
            row(
                f"general perplexity, {language}",
                *general.loss.perplexities,
                general.loss.answers,
                f"ratio {ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
            )
            row(
                f"general accuracy, {language}",
                general.accuracy_before,
                general.accuracy_after,
                general.loss.answers,
                f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
            )
        lines.append(f"canaries memorised: {self.memorised} of {self.canaries}")
        if self.parity:
            lines.append(f"vLLM answers as peft does: {self.parity.equal} of {self.parity.answers}")
        return "\n".join(lines)


def measure(adapters: Path, name: str, runs: Path, models: Path, progress: bool = True) -> Report:
    """Measure the adapter `name` against its base.

    Raises:
        InputError: There is no such adapter, its base has changed, or it is a whole model and has none to compare with.
    """
    import torch
    from peft import PeftModel

    record = record_of(adapters, name)
    recipe = Recipe.model_validate(record["recipe"])
    if recipe.peft is None:
        raise InputError(f"{name} is a whole model; only an adapter can be compared with its base in one run")
    source = prepare(record["base"], models)
    check_base(record, source)
    tokenizer = load_tokenizer(source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_model(source, recipe.quantize, device)
    model = PeftModel.from_pretrained(base, str(adapters / name), torch_device=device).eval()
    asking = _Asking(model, tokenizer, device, recipe.max_tokens, progress)

    held_rows = list(rows(runs / record.get("run", ""), "validation"))
    losses = asking.before_and_after(held_rows, "held-out answers")
    planted = canaries(recipe.canaries, recipe.seed, tuple(record.get("languages", ("en", "zh"))))
    return Report(
        adapter=name,
        held_out=_pooled(held_rows, losses),
        kinds={
            kind: loss
            for kind in sorted({row["kind"] for row in held_rows})
            if (loss := _pooled(held_rows, losses, kind))
        },
        general=_general(asking, held_out()),
        canaries=len(planted),
        memorised=sum(asking.completes(example) for example in planted),
    )


def parity(settings: Settings, name: str) -> Parity:
    """Answer held-out prompts by vLLM and by peft, both in fp32 on the weights that serve.

    Raises:
        InputError: There is no such adapter, vLLM cannot serve it, or its run held nothing out.
        EngineError: vLLM did not start.
    """
    import torch
    from peft import PeftModel

    record = record_of(settings.adapters, name)
    recipe = Recipe.model_validate(record["recipe"])
    refused = unservable(recipe.peft_fields)
    held = rows(settings.runs / record.get("run", ""), "validation")
    kept = [row for row in held if len(row["ids"]) + _ANSWER_TOKENS <= settings.engine_max_tokens][:_COMPARED]
    if refused or not kept:
        raise InputError(f"{name} cannot be compared: {refused or 'its run held no answers out, or is gone'}")
    base = served_folder(record["base"], settings.models, recipe.quantize)
    tokenizer = load_tokenizer(base)
    model = PeftModel.from_pretrained(load_model(base, "none", "cpu").float(), str(settings.adapters / name)).eval()
    prompts = [row["ids"][: -row["answer"]] for row in kept]
    exact = settings.model_copy(update={"engine_dtype": "float32", "merged": False})
    engine = EngineProcess(exact, base, name, settings.adapters / name, settings.logs / "parity.log")
    try:
        engine.start()
        equal = 0
        for ids in tqdm(prompts, desc="vLLM and peft", unit="answer"):
            asked = torch.tensor([ids])
            with torch.no_grad():
                made = model.generate(
                    asked, attention_mask=torch.ones_like(asked), max_new_tokens=_ANSWER_TOKENS, do_sample=False
                )
            equal += tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True) == _completed(
                engine.url, name, ids
            )
    finally:
        engine.stop()
    return Parity(len(prompts), equal)


def _completed(url: str, name: str, ids: list[int]) -> str:
    """What the engine goes on with after these tokens."""
    body = {"model": name, "prompt": ids, "max_tokens": _ANSWER_TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return str(json.loads(reply.read())["choices"][0]["text"])


def _pooled(rows: Sequence[Row], losses: Sequence[tuple[float, float]], kind: str | None = None) -> Loss | None:
    """The loss of all rows, or of those of one kind; None without any."""
    picked = [(row, loss) for row, loss in zip(rows, losses, strict=True) if kind in (None, row["kind"])]
    counted = sum(row["answer"] for row, _ in picked)
    if not counted:
        return None
    before, after = (sum(loss[side] for _, loss in picked) / counted for side in (0, 1))
    return Loss(before, after, len(picked))


def _general(asking: "_Asking", questions: Sequence[GeneralQuestion]) -> dict[str, General]:
    """Every question with its right and its wrong answers."""
    options = [asked(question, text) for question in questions for text in (question.answer, *question.wrong)]
    made, left_out = tokenise(asking.tokenizer, options, asking.max_tokens)
    if left_out:
        raise InputError(f"recipe field 'max_tokens' is {asking.max_tokens}: too few for the general questions")
    losses = asking.before_and_after(made, "general questions")
    wide = 1 + len(questions[0].wrong)
    found: dict[str, list[tuple[int, tuple[float, float], tuple[bool, bool]]]] = {"all": []}
    for i, question in enumerate(questions):
        span = range(i * wide, (i + 1) * wide)
        right = made[span[0]]["answer"], losses[span[0]]
        means = [[losses[at][side] / made[at]["answer"] for at in span] for side in (0, 1)]
        scored = (right[0], right[1], (means[0][0] == min(means[0]), means[1][0] == min(means[1])))
        found["all"].append(scored)
        found.setdefault(question.lang, []).append(scored)
    return {language: _summary(scores) for language, scores in found.items()}


def _summary(scores: Sequence[tuple[int, tuple[float, float], tuple[bool, bool]]]) -> General:
    counted = sum(answer for answer, _, _ in scores)
    before, after = (sum(loss[side] for _, loss, _ in scores) / counted for side in (0, 1))
    mean = counted / len(scores)
    change = difference([Pair(0.0, (loss[1] - loss[0]) / mean, str(i)) for i, (_, loss, _) in enumerate(scores)])
    rights = [sum(right[side] for _, _, right in scores) / len(scores) for side in (0, 1)]
    right = difference([Pair(float(was), float(now), str(i)) for i, (_, _, (was, now)) in enumerate(scores)])
    assert change and right, "the general set has more than one question"
    return General(
        loss=Loss(before, after, len(scores)),
        perplexity_ratio=Interval(math.exp(change.mean), math.exp(change.low), math.exp(change.high), change.n),
        accuracy_before=rights[0],
        accuracy_after=rights[1],
        accuracy_change=right.interval,
    )


class _Asking:
    """A model with an adapter that can be switched off."""

    def __init__(self, model: Any, tokenizer: Any, device: str, max_tokens: int, progress: bool) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.max_tokens = max_tokens
        self.progress = progress

    def before_and_after(self, rows: Sequence[Row], what: str) -> list[tuple[float, float]]:
        """Summed loss of each row's answer, in nats: of the base, and with the adapter."""
        losses: list[tuple[float, float]] = []
        if not rows:
            return losses
        with packing(self.model, rows, self.device) as packs:
            at_once = _TOGETHER if packs else 1
            parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
            for part in tqdm(parts, desc=what, unit="batch", disable=not self.progress):
                with self.model.disable_adapter():
                    before = self._losses(part)
                losses += zip(before, self._losses(part), strict=True)
        return losses

    def _losses(self, rows: Sequence[Row]) -> list[float]:
        import torch

        with torch.no_grad():
            losses = token_losses(self.model, packed(rows, self.device), self.device)
        return [float(row.sum()) for row in losses.split([row["answer"] for row in rows])]

    def completes(self, canary: Example) -> bool:
        """Whether the model, given the answer up to the secret, goes on with the secret."""
        import torch

        hidden = secret(canary)
        before = canary.answer.content[: canary.answer.content.index(hidden)].rstrip()
        ids = tokens(self.tokenizer, canary.messages())
        ids += self.tokenizer(before, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            made = self.model.generate(
                input_ids=torch.tensor([ids], device=self.device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self.device),
                max_new_tokens=_SECRET_TOKENS,
                do_sample=False,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        return hidden in self.tokenizer.decode(made[0, len(ids) :])
