"""An engine that asks a function: anything that turns pictures and prompts into answers can be evaluated."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmgym_policies.engine import Completion, Prompt, Sampling

Answerer = Callable[[list[bytes], list[str]], "Sequence[str] | Awaitable[Sequence[str]]"]
"""(images, prompts) -> answers. images: the last picture of each prompt, a PNG file; prompts: its last text."""


class WrongAnswers(ValueError):
    """A function returned something else than one text per prompt."""


class _Request(NamedTuple):
    prompt: Prompt
    future: asyncio.Future[str]


class FunctionEngine:
    """Asks `function(images, prompts)` for answers; an `Engine` without weights.

    Answers are whole responses, tags included. What waits is asked in one call of at most `max_batch_size` prompts.
    Calls never overlap. A plain function runs in a thread, an async one on the event loop; what it raises goes to
    whoever waits for its answers. Temperature, bound and seed are for the function to know: none is passed on.
    """

    def __init__(self, function: Answerer, *, max_batch_size: int = 256, batch_wait_s: float = 0.01) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {max_batch_size}")
        self._function = function
        self._max_batch_size = max_batch_size
        self._batch_wait_s = batch_wait_s
        self._waiting: list[_Request] = []
        self._caller: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Lock()

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        loop = asyncio.get_running_loop()
        requests = [_Request(prompt, loop.create_future()) for prompt in prompts]
        self._waiting += requests
        if self._caller is None or self._caller.done():
            self._caller = loop.create_task(self._call())
        return [_completion(text) for text in await asyncio.gather(*(request.future for request in requests))]

    async def weights_version(self) -> int | None:
        return 0

    async def pause(self) -> None:
        self._open.clear()
        async with self._idle:
            pass

    async def resume(self) -> None:
        self._open.set()

    async def _call(self) -> None:
        """Answers batches until nothing waits."""
        while self._waiting:
            await asyncio.sleep(self._batch_wait_s)
            await self._open.wait()
            async with self._idle:
                waiting = [request for request in self._waiting if not request.future.done()]
                batch, self._waiting = waiting[: self._max_batch_size], waiting[self._max_batch_size :]
                if batch:
                    await self._answer(batch)

    async def _answer(self, batch: Sequence[_Request]) -> None:
        try:
            answers = await self._ask([request.prompt for request in batch])
        except Exception as error:
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)
            return
        for request, answer in zip(batch, answers, strict=True):
            if not request.future.done():
                request.future.set_result(answer)

    async def _ask(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        images = [prompt.images[-1] for prompt in prompts]
        texts = [prompt.messages[-1].text for prompt in prompts]
        if inspect.iscoroutinefunction(self._function):
            answers: Any = self._function(images, texts)
        else:
            answers = await asyncio.to_thread(self._function, images, texts)
        if inspect.isawaitable(answers):
            answers = await answers
        return _checked(answers, len(prompts), getattr(self._function, "__qualname__", repr(self._function)))


def _checked(answers: Any, num_prompts: int, name: str) -> Sequence[str]:
    if not isinstance(answers, list | tuple):
        raise WrongAnswers(f"{name} must return a list of answers, got {type(answers).__name__}")
    if len(answers) != num_prompts:
        raise WrongAnswers(f"{name} must return one answer per prompt, {num_prompts}, got {len(answers)}")
    for answer in answers:
        if not isinstance(answer, str):
            raise WrongAnswers(f"{name} must return texts, got {type(answer).__name__}")
    return answers


def _completion(text: str) -> Completion:
    no_ids = np.zeros(0, dtype=np.int32)
    return Completion(text, no_ids, no_ids, np.zeros(0, dtype=np.float32), "stop", weights_version=0)
