"""What an inference engine is: prompts and sampling in, completions with ids, log-probabilities and version out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]

ENGINES = {
    "function": "vlmgym_policies.engines.function:FunctionEngine",
    "hf": "vlmgym_policies.engines.hf:HFEngine",
    "openai": "vlmgym_policies.engines.openai:OpenAIEngine",
    "scripted": "vlmgym_policies.engines.scripted:ScriptedEngine",
    "vllm": "vlmgym_policies.engines.vllm:VLLMEngine",
}
ENGINES_WITHOUT_WEIGHTS = frozenset({"function", "openai"})
"""Who answers, but cannot be given weights: for evaluation, never for training."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `images` are PNG files; they stand before the text."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat to complete.

    `state` is the true game state behind the last picture. Engines that are models never read it; baselines, teachers,
    scripted engines and scoring do.
    """

    messages: tuple[Message, ...]
    state: Any = None

    @property
    def images(self) -> tuple[bytes, ...]:
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a completion.

    temperature: 0 is greedy. max_tokens: response bound. seed: the i-th prompt of a call draws from the stream
    (seed, i), whatever else shares its batch.
    """

    temperature: float = 1.0
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")

    def uniforms(self, index: int) -> NDArray[np.float64]:
        """The random numbers in [0, 1) that decide prompt `index` of the call, one per token: float64 [max_tokens]."""
        return np.random.default_rng([self.seed, index]).random(self.max_tokens)


class Usage(NamedTuple):
    """What a completion cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered.

    prompt_token_ids: int32 [P], media placeholders expanded, as the model saw them.
    token_ids: int32 [T], as sampled; includes the end token when finish_reason is "stop".
    logprobs: float32 [T], log-probability of each sampled token under the distribution it was drawn from
        (temperature applied, banned tokens removed); at temperature 0 the model's own at temperature 1.
    weights_version: version of the weights that produced every token of this completion.
    usage: as an endpoint counted it, which keeps the ids to itself; None where it counted nothing.
    image_digests: per image of the prompt, a hash of the pixels the model saw and of how many tokens they became
        (`VLMProcessor.image_digest`), for the learner to compare; empty where the engine cannot tell.
    """

    text: str
    prompt_token_ids: NDArray[np.int32] = field(repr=False)
    token_ids: NDArray[np.int32] = field(repr=False)
    logprobs: NDArray[np.float32] = field(repr=False)
    finish_reason: FinishReason
    weights_version: int
    usage: Usage | None = None
    image_digests: tuple[bytes, ...] = ()


class NoWeightsError(RuntimeError):
    """A (re)started engine was asked before it was given weights; whoever feeds it should, then ask again."""

    def __init__(self) -> None:
        super().__init__("the engine has no weights yet")


class GenerationError(RuntimeError):
    """A prompt that an engine could not answer, after whatever retries it makes. Other prompts may fare better."""


@runtime_checkable
class Engine(Protocol):
    """Contract of every engine; `tests/policies/test_engine_contract.py` holds all of them to it.

    Calls may overlap; an engine batches what is waiting. Weights change only between batches: a completion comes from
    exactly one version.
    """

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order.

        Raises:
            NoWeightsError: the engine waits for its first weights.
            GenerationError: a service that the engine asks did not answer.
            ValueError: a prompt does not fit the model.
        """
        ...

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str, version: int) -> None:
        """Replaces the weights (tensors under the model's own parameter names, or a model directory)."""
        ...

    async def weights_version(self) -> int | None:
        """Version in use, or None while the engine waits for its first weights and so serves nothing."""
        ...

    async def pause(self) -> None:
        """Returns when nothing is being generated; later requests wait for `resume`."""
        ...

    async def resume(self) -> None: ...


def make_engine(type: str, **options: Any) -> Engine:
    """Builds an engine of a registered type in this process.

    Raises:
        ValueError: unknown type.
    """
    if type not in ENGINES:
        raise ValueError(f"engine type must be one of {', '.join(sorted(ENGINES))}, got {type!r}")
    module, name = ENGINES[type].split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(**options)
    return engine
