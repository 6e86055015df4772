"""What a chat request may say, in OpenAI's words, and what it asks of an engine."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmgym.serving.errors import RequestError
from vlmgym.serving.images import read_image
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import Message, Prompt, Sampling

WITHOUT_EFFECT: Mapping[str, Any] = {
    "frequency_penalty": 0,
    "logprobs": False,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "store": False,
    "tools": [],
    "top_p": 1,
}
"""Parameters that are not supported, at values at which nobody would notice: clients send them unasked."""
MAX_STOPS = 4
_MAX_SEED = 2**64


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks. Choice i of the response is that of the i-th of `num_choices` equal prompts of a call.

    stops: texts before which a response ends. is_streamed, wants_usage: how it is to be told.
    """

    prompt: Prompt
    sampling: Sampling
    num_choices: int
    stops: tuple[str, ...]
    is_streamed: bool
    wants_usage: bool


def read_question(body: bytes, settings: ServeSettings) -> Question:
    """Errors: RequestError for whatever cannot be answered."""
    try:
        content = json.loads(body)
    except ValueError as error:
        raise RequestError(400, f"the request is no valid JSON: {error}", code="invalid_json") from error
    if not isinstance(content, dict):
        raise RequestError(400, f"the request must be a JSON object, got {type(content).__name__}", code="invalid_json")
    given = {name: value for name, value in content.items() if not _has_no_effect(name, value)}
    try:
        return _question(_ChatRequest.model_validate(given), settings)
    except ValidationError as error:
        raise _refused(error) from error


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Text(_Part):
    type: Literal["text"]
    text: str


class _ImageUrl(_Part):
    url: str
    detail: Literal["auto"] = "auto"


class _Image(_Part):
    type: Literal["image_url"]
    image_url: _ImageUrl


class _Message(_Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[_Text | _Image, Field(discriminator="type")]]


class _StreamOptions(_Part):
    include_usage: bool = False


class _ChatRequest(_Part):
    """A parameter that is not here is refused by its name."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=2)
    n: int = Field(1, ge=1)
    seed: int | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] = Field(default_factory=list)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    user: str = ""


def _has_no_effect(name: str, value: Any) -> bool:
    return value is None or (name in WITHOUT_EFFECT and value == WITHOUT_EFFECT[name])


def _refused(error: ValidationError) -> RequestError:
    """The error deepest inside the request: where a value may be of several types, it is about the one meant."""
    deepest = max(error.errors(include_url=False, include_input=False), key=lambda one: len(one["loc"]))
    param = ".".join(_path(deepest["loc"]))
    if deepest["type"] == "extra_forbidden":
        return RequestError(400, f"unsupported parameter: {param}", code="unsupported_parameter", param=param)
    return RequestError(400, f"{param}: {deepest['msg']}", code="invalid_value", param=param)


def _path(location: tuple[int | str, ...]) -> list[str]:
    """Without what pydantic adds: names of types, and the kind of a part, which is also the name of its content."""
    names = [str(name) for name in location if name != "str" and "[" not in str(name)]
    return [name for name, before in zip(names, ["", *names], strict=False) if name != before]


def _question(request: _ChatRequest, settings: ServeSettings) -> Question:
    if request.model != settings.model:
        message = f"the model {request.model!r} does not exist, there is {settings.model!r}"
        raise RequestError(404, message, code="model_not_found", param="model")
    if request.n > settings.max_choices:
        raise _invalid("n", f"n must be at most {settings.max_choices}, got {request.n}")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop
    if len(stops) > MAX_STOPS or not all(stops):
        raise _invalid("stop", f"stop must be at most {MAX_STOPS} texts, none of them empty")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise _invalid("max_tokens", "max_tokens and max_completion_tokens must not both be set")
    asked = request.max_completion_tokens or request.max_tokens or settings.max_tokens
    seed = secrets.randbits(63) if request.seed is None else request.seed % _MAX_SEED
    return Question(
        prompt=_prompt(request.messages, settings),
        sampling=Sampling(request.temperature, min(asked, settings.max_tokens), seed),
        num_choices=request.n,
        stops=tuple(stops),
        is_streamed=request.stream,
        wants_usage=request.stream_options.include_usage,
    )


def _prompt(messages: list[_Message], settings: ServeSettings) -> Prompt:
    if messages[-1].role != "user":
        raise _invalid("messages", f"the last message must be of the user, got {messages[-1].role}")
    num_images = sum(isinstance(part, _Image) for message in messages for part in message.content)
    if num_images > settings.max_images:
        raise _invalid("messages", f"a request must have at most {settings.max_images} pictures, got {num_images}")
    return Prompt(tuple(_message(message, f"messages.{i}", settings) for i, message in enumerate(messages)))


def _message(message: _Message, param: str, settings: ServeSettings) -> Message:
    """Pictures come before the text, wherever they stood: as in every prompt that the policy was trained on."""
    role: Literal["system", "user", "assistant"] = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return Message(role, message.content)
    images = [
        read_image(part.image_url.url, settings.max_image_px, f"{param}.content.{i}.image_url")
        for i, part in enumerate(message.content)
        if isinstance(part, _Image)
    ]
    if images and role != "user":
        raise _invalid(f"{param}.content", f"pictures must be in messages of the user, got one of {message.role}")
    texts = [part.text for part in message.content if isinstance(part, _Text)]
    return Message(role, "\n".join(texts), tuple(images))


def _invalid(param: str, message: str) -> RequestError:
    return RequestError(400, message, code="invalid_value", param=param)
