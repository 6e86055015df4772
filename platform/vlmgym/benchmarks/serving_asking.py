"""Decides how the benchmark of serving asks over HTTP: as many clients at once, with next to no work of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np

from vlmgym.benchmarks.rollouts_asking import Load, Window, closed_loop
from vlmgym.benchmarks.rollouts_workload import Branch
from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.engines.openai import chat_message


def ask_service(url: str, model: str, branches: Sequence[Branch], load: Load, *, is_streamed: bool) -> Window:
    """As `closed_loop`, of a service. The clients share this process; `engine_cpu_s` is not measured."""
    return asyncio.run(_ask(url, model, branches, load, is_streamed))


async def _ask(url: str, model: str, branches: Sequence[Branch], load: Load, is_streamed: bool) -> Window:
    connector = aiohttp.TCPConnector(limit=load.num_in_flight)
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:

        async def generate(prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            (prompt,) = prompts
            body = _body(model, prompt, sampling, is_streamed)
            async with session.post(f"{url}/chat/completions", data=body) as response:
                content = await response.read()
            return [_completion(_usage(content, is_streamed))]

        return await closed_loop(generate, _unmeasured, branches, load)


def _body(model: str, prompt: Prompt, sampling: Sampling, is_streamed: bool) -> bytes:
    request: dict[str, Any] = {
        "model": model,
        "messages": [chat_message(message) for message in prompt.messages],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
    }
    if is_streamed:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request).encode()


def _usage(content: bytes, is_streamed: bool) -> dict[str, int]:
    """Of the body, or of the last event before the end of a stream."""
    if is_streamed:
        content = content.rstrip().split(b"\n\n")[-2].removeprefix(b"data: ")
    usage: dict[str, int] = json.loads(content)["usage"]
    return usage


def _completion(usage: dict[str, int]) -> Completion:
    """Of which only the number of its tokens is looked at."""
    token_ids = np.zeros(usage["completion_tokens"], dtype=np.int32)
    return Completion("", token_ids[:0], token_ids, token_ids.astype(np.float32), "length", 0)


async def _unmeasured() -> float:
    return 0.0
