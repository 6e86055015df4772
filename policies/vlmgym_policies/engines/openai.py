"""Any service that speaks OpenAI's chat completions: pictures as data URIs, retries, time-outs, a bound on requests."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import numpy as np
import openai
from openai.types.chat import ChatCompletion

from vlmgym_policies.engine import Completion, Delta, GenerationError, Message, Prompt, Sampling, Usage

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"
"""Sent where no key is set: a server of one's own asks for none, but the client wants one."""
_RENAMED = {"max_tokens": "max_completion_tokens", "seed": None}
"""Parameters that some services refuse, and what is sent instead."""


class OpenAIEngine:
    """Asks a model behind a URL; an `Engine` without weights of its own.

    url: as for the `openai` client, "http://127.0.0.1:8000/v1"; without one, OpenAI's. The key is OPENAI_API_KEY.
    concurrency: most requests at a time. timeout_s: of one request. max_retries: of a request that timed out, found no
    connection, or was answered with 408, 409, 429 or 5xx; waits as long as the service says, or ever longer.

    Ids and log-probabilities stay with the service, so completions have none; `usage` says how many tokens were paid.
    Token draws are reproducible only as far as the service heeds its parameter `seed`.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 600.0,
        max_retries: int = 5,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self._key = api_key(url)
        self._model = model
        self._url = url
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._refused: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paused = False

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self._connect()
        return list(await asyncio.gather(*(self._complete(p, sampling, i) for i, p in enumerate(prompts))))

    async def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """The responses of `generate` as they are written, one after the other; closing it ends them.

        Each ends with a delta that holds its completion. Tokens are not counted.
        """
        self._connect()
        for index, prompt in enumerate(prompts):
            text, finish = "", None
            async with self._places:
                async for piece, reason in self._pieces(prompt, sampling, index):
                    text, finish = text + piece, reason or finish
                    if piece:
                        yield Delta(index, piece, 0, 0, 0, None)
            if finish is None:
                raise GenerationError(f"{self._model}: the stream ended before its response did")
            yield Delta(index, "", 0, 0, 0, _completion(text, finish))

    async def weights_version(self) -> int | None:
        return 0

    async def pause(self) -> None:
        """Takes all places for requests."""
        self._connect()
        if not self._paused:
            self._paused = True
            for _ in range(self._concurrency):
                await self._places.acquire()

    async def resume(self) -> None:
        if self._paused:
            self._paused = False
            for _ in range(self._concurrency):
                self._places.release()

    async def close(self) -> None:
        """Gives the connections back."""
        if self._loop is asyncio.get_running_loop():
            self._loop = None
            await self._client.close()

    def _connect(self) -> None:
        """Connections belong to one event loop."""
        if self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._places = asyncio.Semaphore(self._concurrency)
            self._client = openai.AsyncOpenAI(
                api_key=self._key, base_url=self._url, timeout=self._timeout_s, max_retries=self._max_retries
            )

    async def _complete(self, prompt: Prompt, sampling: Sampling, index: int) -> Completion:
        messages = [chat_message(message) for message in prompt.messages]
        async with self._places:
            try:
                reply = await self._ask(messages, sampling, index)
            except openai.APIError as error:
                text = " ".join(str(error.message).split())
                raise GenerationError(f"{self._model}: {type(error).__name__}: {text}") from error
        if not isinstance(reply, ChatCompletion) or not reply.choices:
            shown = " ".join(str(reply).split())[:200]
            raise GenerationError(f"{self._model}: the reply is no chat completion: {shown}")
        choice, usage = reply.choices[0], reply.usage
        counted = None if usage is None else Usage(usage.prompt_tokens, usage.completion_tokens)
        return _completion(choice.message.content or "", choice.finish_reason, counted)

    async def _pieces(
        self, prompt: Prompt, sampling: Sampling, index: int
    ) -> AsyncGenerator[tuple[str, str | None], None]:
        """What a response grows by, and why it ended once it has."""
        messages = [chat_message(message) for message in prompt.messages]
        try:
            async with await self._ask(messages, sampling, index, stream=True) as chunks:
                async for chunk in chunks:
                    for choice in chunk.choices[:1]:
                        yield choice.delta.content or "", choice.finish_reason
        except (openai.APIError, httpx.HTTPError) as error:
            text = " ".join(str(error).split())
            raise GenerationError(f"{self._model}: {type(error).__name__}: {text}") from error

    async def _ask(self, messages: list[Any], sampling: Sampling, index: int, *, stream: bool = False) -> Any:
        """One reply; where the service refuses a parameter of `_RENAMED` by name, asks again with what stands there."""
        seed = int(np.random.SeedSequence([sampling.seed, index]).generate_state(1)[0]) >> 1
        values = {"max_tokens": sampling.max_tokens, "seed": seed}
        while True:
            names = {name: _RENAMED[name] if name in self._refused else name for name in values}
            options: dict[str, Any] = {sent: values[name] for name, sent in names.items() if sent is not None}
            try:
                return await self._client.chat.completions.create(
                    model=self._model, messages=messages, temperature=sampling.temperature, stream=stream, **options
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = {name for name in values.keys() & options if re.search(rf"\b{name}\b", str(error))}
                if not refused:
                    raise
                self._refused |= refused


def api_key(url: str | None) -> str:
    """What is sent to an endpoint as its key. Errors: ValueError where OpenAI's own, no URL, has none."""
    key = os.environ.get(KEY_VARIABLE) or (NO_KEY if url else "")
    if not key:
        raise ValueError(f"{KEY_VARIABLE} must be set in the environment to ask OpenAI's own endpoint")
    return key


def _completion(text: str, finish_reason: str | None, usage: Usage | None = None) -> Completion:
    return Completion(
        text=text,
        prompt_token_ids=np.zeros(0, dtype=np.int32),
        token_ids=np.zeros(0, dtype=np.int32),
        logprobs=np.zeros(0, dtype=np.float32),
        finish_reason="length" if finish_reason == "length" else "stop",
        weights_version=0,
        usage=usage,
    )


def chat_message(message: Message) -> dict[str, Any]:
    """A chat message as the service reads it; its pictures stand before its text."""
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image).decode()}"}}
        for image in message.images
    ]
    text = {"type": "text", "text": message.text}
    return {"role": message.role, "content": [*pictures, text] if pictures else message.text}
