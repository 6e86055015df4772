"""Decides who plays: a model behind a URL that speaks OpenAI's chat completions. Its key never leaves this process."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urlsplit

import openai

from vlmgym.errors import BadInput
from vlmgym_policies.engine import Delta, GenerationError, Prompt, Sampling
from vlmgym_policies.engines.openai import OpenAIEngine, api_key

MAX_RETRIES = 1
"""Somebody is watching: an endpoint that does not answer is better told than waited for."""

_SPEC = re.compile(r"(?:openai:(?P<model>.+)@)?(?P<url>https?://\S+)")


@dataclass(frozen=True)
class Endpoint:
    """model: None for the first one that the endpoint lists."""

    url: str
    model: str | None = None
    temperature: float = 1.0
    max_tokens: int = 1024
    timeout_s: float = 600.0

    async def find_model(self) -> str:
        """The model that is asked. Errors: GenerationError where the endpoint lists none, or does not answer."""
        if self.model is not None:
            return self.model
        async with openai.AsyncOpenAI(
            api_key=api_key(self.url), base_url=self.url, timeout=self.timeout_s, max_retries=MAX_RETRIES
        ) as client:
            try:
                models = (await client.models.list()).data
            except openai.APIError as error:
                text = " ".join(str(error).split())
                raise GenerationError(f"{self.url}: {type(error).__name__}: {text}") from error
        if not models:
            raise GenerationError(f"{self.url} lists no model")
        return models[0].id

    async def stream(self, prompt: Prompt, seed: int) -> AsyncGenerator[Delta, None]:
        """The response as it is written. Errors: GenerationError."""
        engine = OpenAIEngine(
            await self.find_model(), url=self.url, concurrency=1, timeout_s=self.timeout_s, max_retries=MAX_RETRIES
        )
        try:
            async with aclosing(engine.stream([prompt], Sampling(self.temperature, self.max_tokens, seed))) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            await engine.close()


def read_endpoint(spec: str, *, temperature: float, max_tokens: int, timeout_s: float) -> Endpoint:
    """What `--play` names: http://HOST:PORT, with or without /v1, or openai:MODEL@URL as `vlmgym serve` prints it.

    Errors: BadInput.
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise BadInput(f"--play takes http://HOST:PORT/v1 or openai:MODEL@URL, got {spec!r}")
    url = found["url"].rstrip("/")
    if not urlsplit(url).path:
        url += "/v1"
    return Endpoint(url, found["model"], temperature, max_tokens, timeout_s)
