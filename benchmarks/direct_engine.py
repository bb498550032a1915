"""Answers of a release in this process: what a benchmark on a CPU needs where vLLM's LoRA would take hours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from assistant import prompt
from assistant.base_models import load_tokenizer, served_folder
from assistant.chat import Assistant
from assistant.engine import Piece, Sampling, Usage
from assistant.live_index import open_index
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.releases import Release
from assistant.settings import Settings
from finetune.course import Course
from retrieval.index import Index


class Direct:
    """Answers as vLLM does, but by transformers, with the adapter merged: vLLM's LoRA is slow on a CPU."""

    def __init__(self, settings: Settings, base: str, at_once: int) -> None:
        self._settings, self._at_once = settings, at_once
        self._base = served_folder(base, settings.models, "nf4")
        self._tokenizer = load_tokenizer(self._base)
        self._loaded: tuple[str | None, Any] = (None, None)
        self._waiting: list[tuple[list[Message], Sampling, asyncio.Future[tuple[str, int, int]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def models(self) -> list[str]:
        return [path.name for path in self._settings.adapters.iterdir()]

    async def metrics(self) -> str:
        return ""

    async def close(self) -> None:
        pass

    async def answer(
        self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool = False
    ) -> AsyncIterator[Piece]:
        future: asyncio.Future[tuple[str, int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, sampling, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(model))
        text, usage.prompt_tokens, usage.completion_tokens = await future
        yield Piece(text, finish_reason="stop")

    async def _work(self, model: str) -> None:
        while self._waiting:
            await asyncio.sleep(0.2)  # those that come together are answered together
            batch, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
            asked = [messages for messages, _, _ in batch]
            answers = await asyncio.to_thread(self.generate, model, asked, batch[0][1])
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def generate(self, model: str, batch: list[list[Message]], sampling: Sampling) -> list[tuple[str, int, int]]:
        """Text, and counts of tokens asked and written, of each conversation; the adapter `""` is the base alone."""
        import torch

        tokenizer = self._tokenizer
        told = [
            tokenizer.apply_chat_template(
                [message.as_dict() for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                **prompt.TEMPLATE_ARGUMENTS,
            )
            for messages in batch
        ]
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        asked = tokenizer(told, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            written = self._model(model).generate(
                **asked, max_new_tokens=sampling.max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )[:, asked["input_ids"].shape[1] :]
        counts = [int(row.sum()) for row in asked["attention_mask"]]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [(text, count, len(tokenizer(text)["input_ids"])) for text, count in zip(texts, counts, strict=True)]

    def _model(self, adapter: str) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if self._loaded[0] != adapter:
            base = AutoModelForCausalLM.from_pretrained(self._base, dtype=torch.bfloat16)
            if adapter:
                base = PeftModel.from_pretrained(base, self._settings.adapters / adapter).merge_and_unload()
            self._loaded = adapter, base.eval()
        return self._loaded[1]


def both(settings: Settings, engine: Direct) -> Callable[..., contextlib.AbstractContextManager[dict[str, Assistant]]]:
    """In place of `contest.both`, with one engine for all nights."""

    @contextlib.contextmanager
    def opened_both(course: Course, challenger: Release) -> Iterator[dict[str, Assistant]]:
        tried = {"champion": course.champion, "challenger": challenger}
        opened = {id: open_index(settings, str(id)) for id in {release.index for release in tried.values()}}
        try:
            yield {
                name: assistant_of(settings, release, opened[release.index], engine) for name, release in tried.items()
            }
        finally:
            for index in opened.values():
                index.close()

    return opened_both


def assistant_of(settings: Settings, release: Release, index: Index, engine: Direct) -> Assistant:
    return Assistant(
        release=release.id,
        index=index,
        engine=engine,  # type: ignore[arg-type]
        adapter=str(release.adapter),
        languages=("en",),
        policy=read_policy(None),
        settings=settings,
    )
