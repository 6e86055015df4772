"""Responses of an endpoint as they are written."""

import asyncio
from collections.abc import Iterator
from threading import Thread

import pytest
from scripted_endpoint import Broken, Refusal, ScriptedEndpoint

from vlmgym_policies.engine import Delta, GenerationError, Message, Prompt, Sampling
from vlmgym_policies.engines.openai import OpenAIEngine

PROMPT = Prompt((Message("user", "Which way?"),))


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def streamed(endpoint: ScriptedEndpoint, num_prompts: int = 1) -> list[Delta]:
    async def read() -> list[Delta]:
        engine = OpenAIEngine("m", url=endpoint.url, max_retries=0)
        try:
            return [delta async for delta in engine.stream([PROMPT] * num_prompts, Sampling(0.5, 7, seed=1))]
        finally:
            await engine.close()

    return asyncio.run(read())


def test_deltas_come_word_by_word_and_the_last_one_of_each_holds_its_completion(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = ["go left  now", "\N{WHITE MEDIUM STAR} up"]
    deltas = streamed(endpoint, num_prompts=2)
    assert [(delta.index, delta.text) for delta in deltas] == [
        *((0, "go "), (0, "left  "), (0, "now"), (0, "")),
        *((1, "\N{WHITE MEDIUM STAR} "), (1, "up"), (1, "")),
    ]
    completions = [delta.completion for delta in deltas if delta.completion is not None]
    assert [completion.text for completion in completions] == ["go left  now", "\N{WHITE MEDIUM STAR} up"]
    assert {completion.finish_reason for completion in completions} == {"stop"}
    first, second = endpoint.requests
    assert (first["temperature"], first["max_tokens"], first["stream"]) == (0.5, 7, True)
    assert first["seed"] != second["seed"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Refusal(400, "too long"), "m: BadRequestError: .*too long"),
        (Broken("go le"), "m: the stream ended before its response did"),
    ],
)
def test_what_the_endpoint_does_not_finish_is_an_error(
    endpoint: ScriptedEndpoint, reply: Refusal | Broken, message: str
) -> None:
    endpoint.replies = [reply]
    with pytest.raises(GenerationError, match=message):
        streamed(endpoint)
    assert len(endpoint.requests) == 1
