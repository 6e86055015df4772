"""How answers are told in OpenAI's words: a completion, or server-sent events of its pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from vlmgym.serving.answering import Piece
from vlmgym.serving.served_policy import Checkpoint

VERSION_HEADER = "x-vlmgym-weights-version"
CHECKPOINT_HEADER = "x-vlmgym-checkpoint"
LAST_EVENT = b"data: [DONE]\n\n"


def version_headers(checkpoint: Checkpoint) -> dict[str, str]:
    """What a response came from: the fingerprint of the checkpoint, and its path, percent-encoded."""
    return {VERSION_HEADER: checkpoint.fingerprint, CHECKPOINT_HEADER: quote(checkpoint.path)}


def system_fingerprint(checkpoint: Checkpoint) -> str:
    return f"fp_{checkpoint.fingerprint}"


class Reply:
    """The response to one request."""

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model

    def completion(self, choices: Sequence[Piece], checkpoint: Checkpoint) -> bytes:
        """The body of a response that is told at once."""
        return _encode(
            ChatCompletion(
                id=self._id,
                object="chat.completion",
                created=self._created,
                model=self._model,
                choices=[
                    Choice(
                        index=choice.choice,
                        message=ChatCompletionMessage(role="assistant", content=choice.text),
                        finish_reason=choice.finish_reason or "stop",
                    )
                    for choice in choices
                ],
                system_fingerprint=system_fingerprint(checkpoint),
                usage=_usage(choices[0].num_prompt_tokens, sum(choice.num_tokens for choice in choices)),
            )
        )

    def event(self, piece: Piece, checkpoint: Checkpoint, *, is_first: bool) -> bytes:
        """One piece. is_first: of its choice, which says whose words these are."""
        delta = ChoiceDelta(role="assistant" if is_first else None, content=piece.text)
        choice = ChunkChoice(index=piece.choice, delta=delta, finish_reason=piece.finish_reason)
        return self._event([choice], checkpoint)

    def usage_event(self, num_prompt_tokens: int, num_tokens: int, checkpoint: Checkpoint) -> bytes:
        return self._event([], checkpoint, _usage(num_prompt_tokens, num_tokens))

    def _event(self, choices: list[ChunkChoice], checkpoint: Checkpoint, usage: CompletionUsage | None = None) -> bytes:
        chunk = ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=choices,
            system_fingerprint=system_fingerprint(checkpoint),
            usage=usage,
        )
        return b"data: " + _encode(chunk) + b"\n\n"


def _usage(num_prompt_tokens: int, num_tokens: int) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=num_prompt_tokens, completion_tokens=num_tokens, total_tokens=num_prompt_tokens + num_tokens
    )


def _encode(message: ChatCompletion | ChatCompletionChunk) -> bytes:
    return message.model_dump_json(exclude_unset=True, exclude_none=False).encode()
