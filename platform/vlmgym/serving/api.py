"""The routes of a served policy: OpenAI's models and chat completions, and whether the policy is well."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException

from vlmgym.serving.answering import Piece, answer, stream
from vlmgym.serving.errors import RequestError
from vlmgym.serving.metrics import ServeMetrics
from vlmgym.serving.replies import LAST_EVENT, Reply, version_headers
from vlmgym.serving.requests import Question, read_question
from vlmgym.serving.served_policy import ServedPolicy
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import GenerationError, NoWeightsError, PromptTooLongError

CLIENT_GONE = 499
_INLINE_BYTES = 2**16
"""Larger requests are read in a thread, for that takes milliseconds in which others would wait."""


class ChatApi:
    """Routes around one policy. app: the ASGI application. key_sha256: of the key that is asked for, None asks none."""

    def __init__(
        self, policy: ServedPolicy, settings: ServeSettings, metrics: ServeMetrics, key_sha256: str | None
    ) -> None:
        self._policy = policy
        self._settings = settings
        self._metrics = metrics
        self._key_sha256 = key_sha256
        self._created = int(time.time())
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._until_end)
        self.app.add_api_route("/health", self.health, methods=["GET"])
        self.app.add_api_route("/v1/models", self.models, methods=["GET"])
        self.app.add_api_route("/v1/models/{model:path}", self.model, methods=["GET"])
        self.app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        self.app.add_exception_handler(RequestError, _refuse)
        self.app.add_exception_handler(HTTPException, _refuse_route)
        self.app.add_exception_handler(Exception, _fail)

    async def health(self) -> Response:
        """Needs no key. 503 where nothing can be answered."""
        try:
            await self._policy.check()
        except RuntimeError as error:
            return JSONResponse({"status": "unavailable", "reason": str(error)}, 503)
        current = self._policy.current
        return JSONResponse(
            {
                "status": "ok",
                "model": self._settings.model,
                "checkpoint": current.path,
                "weights_version": current.fingerprint,
                "refused": self._policy.refused,
            }
        )

    async def models(self, request: Request) -> Response:
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._model().model_dump()]})

    async def model(self, request: Request, model: str) -> Response:
        self._check_key(request)
        if model != self._settings.model:
            raise RequestError(404, f"the model {model!r} does not exist", code="model_not_found", param="model")
        return JSONResponse(self._model().model_dump())

    async def chat(self, request: Request) -> Response:
        counted = _Counted(self._metrics)
        try:
            question = await self._question(request)
            if question.is_streamed:
                return await self._stream(question, counted)
            response = await self._answer(question)
        except BaseException as error:
            counted.end(_status(error))
            raise
        counted.end(200)
        return response

    @asynccontextmanager
    async def _until_end(self, app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await asyncio.to_thread(self._policy.close)

    def _model(self) -> Model:
        current = self._policy.current
        model = Model(id=self._settings.model, created=self._created, object="model", owned_by="vlmgym")
        return model.model_copy(update={"checkpoint": current.path, "weights_version": current.fingerprint})

    def _check_key(self, request: Request) -> None:
        """Errors: RequestError 401."""
        if self._key_sha256 is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Of equal length, whatever was sent; so neither length nor content of the key shows in the time this takes.
        fits = hmac.compare_digest(sha256(key.strip().encode()).hexdigest(), self._key_sha256)
        if scheme.lower() != "bearer" or not fits:
            headers = {"www-authenticate": "Bearer"}
            raise RequestError(401, "the API key is missing or wrong", code="invalid_api_key", headers=headers)

    async def _question(self, request: Request) -> Question:
        self._check_key(request)
        body = await self._read_body(request)
        if len(body) <= _INLINE_BYTES:
            return read_question(body, self._settings)
        return await asyncio.to_thread(read_question, body, self._settings)

    async def _read_body(self, request: Request) -> bytes:
        """Errors: RequestError 413, before all of it is read."""
        most = self._settings.max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise RequestError(413, f"a request must have at most {most} bytes", code="request_too_large")
        return bytes(body)

    async def _answer(self, question: Question) -> Response:
        num_read = num_written = 0
        self._metrics.began(question.num_choices)
        try:
            choices = await answer(self._policy.engine, question)
            num_read, num_written = choices[0].num_prompt_tokens, sum(choice.num_tokens for choice in choices)
        except _REFUSALS as error:
            raise _refusal(error) from error
        finally:
            self._metrics.ended(question.num_choices, num_read, num_written)
        checkpoint = self._policy.checkpoint(choices[0].weights_version)
        content = Reply(self._settings.model).completion(choices, checkpoint)
        return Response(content, media_type="application/json", headers=version_headers(checkpoint))

    async def _stream(self, question: Question, counted: _Counted) -> Response:
        """The status and the version are those of the first piece, so it is waited for."""
        pieces = stream(self._policy.engine, question)
        self._metrics.began(question.num_choices)
        try:
            first = await anext(pieces)
        except BaseException as error:
            self._metrics.ended(question.num_choices, 0, 0)
            if isinstance(error, _REFUSALS):
                raise _refusal(error) from error
            raise
        self._metrics.first_token(counted.seconds)
        headers = version_headers(self._policy.checkpoint(first.weights_version))
        events = self._events(question, _chain(first, pieces), counted)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(
        self, question: Question, pieces: AsyncGenerator[Piece, None], counted: _Counted
    ) -> AsyncGenerator[bytes, None]:
        """An error that comes between two pieces is the last event."""
        reply, begun, num_read, num_written = Reply(self._settings.model), set[int](), 0, 0
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    checkpoint = self._policy.checkpoint(piece.weights_version)
                    num_read, num_written = piece.num_prompt_tokens, num_written + piece.num_tokens
                    if piece.text or piece.finish_reason is not None:
                        yield reply.event(piece, checkpoint, is_first=piece.choice not in begun)
                        begun.add(piece.choice)
            if question.wants_usage:
                yield reply.usage_event(num_read, num_written, checkpoint)
            counted.end(200)
            yield LAST_EVENT
        except _REFUSALS as error:
            refusal = _refusal(error)
            counted.end(refusal.status)
            yield b"data: " + refusal.response().body + b"\n\n"
        except BaseException as error:
            counted.end(_status(error))
            raise
        finally:
            self._metrics.ended(question.num_choices, num_read, num_written)


class _Counted:
    """A request whose outcome and seconds are counted once: what comes to it first."""

    def __init__(self, metrics: ServeMetrics) -> None:
        self._metrics = metrics
        self._started_s = time.monotonic()
        self._has_ended = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started_s

    def end(self, status: int) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._metrics.answered(status, self.seconds)


def _status(error: BaseException) -> int:
    """What a request comes to that ends with an error: one that is no `Exception` says that the client is gone."""
    if isinstance(error, RequestError):
        return error.status
    return 500 if isinstance(error, Exception) else CLIENT_GONE


async def _chain(first: Piece, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    yield first
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


_REFUSALS = (ValueError, NoWeightsError, GenerationError)


def _refusal(error: Exception) -> RequestError:
    """What an engine's error is to a client."""
    if isinstance(error, PromptTooLongError):
        return RequestError(400, str(error), code="context_length_exceeded", param="messages")
    if isinstance(error, ValueError):
        return RequestError(400, str(error), code="invalid_prompt", param="messages")
    return RequestError(503, str(error), code="unavailable", headers={"retry-after": "1"})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return RequestError(error.status_code, message, headers=error.headers).response()


async def _fail(request: Request, error: Exception) -> Response:
    """Logged by whoever runs the application; the client is told no more than that."""
    return RequestError(500, "the server failed to answer this request", code="internal_error").response()
