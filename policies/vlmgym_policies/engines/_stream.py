"""How responses become text while they are written: nothing is told that a later token could still change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from vlmgym_policies.engine import Completion, Delta
from vlmgym_policies.processing import VLMProcessor

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class News:
    """What an engine has to tell of prompt `index`: added tokens, and with the last of them the completion."""

    index: int
    token_ids: Sequence[int]
    num_prompt_tokens: int
    weights_version: int
    completion: Completion | None = None


Watch = Callable[[News], None]
"""Told the news, from any thread, before the call that it was given to ends."""


async def deltas(
    answer: Callable[[Watch], Awaitable[Sequence[Completion]]], processor: VLMProcessor, num_prompts: int
) -> AsyncGenerator[Delta, None]:
    """The responses that `answer` writes, as `StreamingEngine.stream` tells them. Closing it cancels `answer`."""
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[News | None] = asyncio.Queue()
    texts = [TextStream(processor) for _ in range(num_prompts)]
    answering = asyncio.ensure_future(answer(lambda item: _tell(loop, news, item)))
    answering.add_done_callback(lambda _: news.put_nowait(None))
    try:
        while (item := await news.get()) is not None:
            text = texts[item.index].add(item.token_ids)
            if item.completion is not None:
                text += texts[item.index].end(item.completion.text)
            num_tokens = len(item.token_ids)
            yield Delta(item.index, text, num_tokens, item.num_prompt_tokens, item.weights_version, item.completion)
        await answering
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


class TextStream:
    """The text of one response, as far as it is certain.

    Held back are an unfinished character and, where a tokenizer falls back to bytes, bytes before the next piece: one
    that fits nowhere makes all of its run unreadable.
    """

    def __init__(self, processor: VLMProcessor) -> None:
        self._processor = processor
        self._token_ids: list[int] = []
        self._context = self._told = 0
        self._num_characters = 0

    def add(self, token_ids: Sequence[int]) -> str:
        """What the text grows by with these tokens."""
        self._token_ids += [token for token in token_ids if token not in self._processor.silent_token_ids]
        if self._told == len(self._token_ids) or self._token_ids[-1] in self._processor.byte_token_ids:
            return ""
        # How a piece is spelled depends on the one before it, so that one is decoded with it.
        before = self._processor.decode(self._token_ids[self._context : self._told])
        now = self._processor.decode(self._token_ids[self._context :])
        if now.endswith(_UNFINISHED):
            return ""
        self._context, self._told = self._told, len(self._token_ids)
        self._num_characters += len(now) - len(before)
        return now[len(before) :]

    def end(self, text: str) -> str:
        """What was held back of the whole, `text`."""
        return text[self._num_characters :]


def _tell(loop: asyncio.AbstractEventLoop, news: asyncio.Queue[News | None], item: News) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever read along
        loop.call_soon_threadsafe(news.put_nowait, item)
