"""How an engine answers a question: all choices at once, or piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from vlmgym.serving.requests import Question
from vlmgym.serving.stops import StopText
from vlmgym_policies.engine import FinishReason, StreamingEngine


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice has grown by. finish_reason: None while more is to come.

    num_tokens: that were written for it; num_prompt_tokens: read before. weights_version: of the whole choice.
    """

    choice: int
    text: str
    num_tokens: int
    num_prompt_tokens: int
    weights_version: int
    finish_reason: FinishReason | None


async def answer(engine: StreamingEngine, question: Question) -> list[Piece]:
    """All choices, whole, in order, and of the same weights: where these change between two, all are asked for again.

    Raises: as `Engine.generate`.
    """
    while True:
        choices = await _whole(engine, question)
        if len({choice.weights_version for choice in choices}) == 1:
            return choices


async def stream(engine: StreamingEngine, question: Question) -> AsyncGenerator[Piece, None]:
    """The choices as they grow. Where weights change between two choices, their pieces say so.

    Raises: as `StreamingEngine.stream`.
    """
    stops = [StopText(question.stops) for _ in range(question.num_choices)]
    num_open = question.num_choices
    async with aclosing(engine.stream([question.prompt] * question.num_choices, question.sampling)) as deltas:
        async for delta in deltas:
            stop = stops[delta.index]
            if stop.found:
                continue
            text, finish_reason = stop.add(delta.text), None
            if stop.found:
                finish_reason = "stop"
            elif delta.completion is not None:
                text, finish_reason = text + stop.end(), delta.completion.finish_reason
            read, version = delta.num_prompt_tokens, delta.weights_version
            yield Piece(delta.index, text, delta.num_tokens, read, version, finish_reason)
            num_open -= finish_reason is not None
            if not num_open:
                return


async def _whole(engine: StreamingEngine, question: Question) -> list[Piece]:
    if question.stops:
        return await _gathered(engine, question)
    completions = await engine.generate([question.prompt] * question.num_choices, question.sampling)
    return [
        Piece(i, c.text, len(c.token_ids), len(c.prompt_token_ids), c.weights_version, c.finish_reason)
        for i, c in enumerate(completions)
    ]


async def _gathered(engine: StreamingEngine, question: Question) -> list[Piece]:
    """As pieces, so that a choice ends where its text does."""
    pieces: list[list[Piece]] = [[] for _ in range(question.num_choices)]
    async for piece in stream(engine, question):
        pieces[piece.choice].append(piece)
    return [
        Piece(
            i,
            "".join(piece.text for piece in own),
            sum(piece.num_tokens for piece in own),
            own[-1].num_prompt_tokens,
            own[-1].weights_version,
            own[-1].finish_reason,
        )
        for i, own in enumerate(pieces)
    ]
