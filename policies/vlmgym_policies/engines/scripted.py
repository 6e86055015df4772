"""An engine whose answers a function writes: baselines and teachers in evaluation, and any script in tests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmgym_policies.engine import Completion, Delta, FinishReason, NoWeightsError, Prompt, Sampling

if TYPE_CHECKING:
    import torch

Writer = Callable[[Prompt, np.random.Generator], str]


class ScriptedEngine:
    """An `Engine` that answers with `writer(prompt, rng)`.

    path: a model directory whose tokenizer spells prompts and answers, so that a learner can score them; without one,
    ids are empty. Log-probabilities are 0: a script is certain.
    """

    def __init__(
        self, writer: Writer, *, path: str | None = None, wait_for_weights: bool = False, dtype: str = "float32"
    ) -> None:
        self._writer = writer
        self._processor: Any = None
        if path is not None:
            from vlmgym_policies.processing import VLMProcessor

            self._processor = VLMProcessor(path)
        self._version = None if wait_for_weights else 0
        self._open = asyncio.Event()
        self._open.set()

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        if self._version is None:
            raise NoWeightsError
        await self._open.wait()
        return [self._complete(prompt, sampling, index) for index, prompt in enumerate(prompts)]

    async def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """Word by word, one response after the other; all its tokens count with the last word."""
        for index, completion in enumerate(await self.generate(prompts, sampling)):
            *words, last = re.findall(r"\S+\s*|^\s+", completion.text) or [""]
            num_read, version = len(completion.prompt_token_ids), completion.weights_version
            for word in words:
                yield Delta(index, word, 0, num_read, version, None)
            yield Delta(index, last, len(completion.token_ids), num_read, version, completion)

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str, version: int) -> None:
        self._version = version

    async def weights_version(self) -> int | None:
        return self._version

    async def pause(self) -> None:
        self._open.clear()

    async def resume(self) -> None:
        self._open.set()

    async def sleep(self) -> None:
        """Nothing to give back: goes on."""

    def close(self) -> None:
        """Nothing was started."""

    def _complete(self, prompt: Prompt, sampling: Sampling, index: int) -> Completion:
        assert self._version is not None
        text = self._writer(prompt, np.random.default_rng([sampling.seed, index]))
        prompt_ids = response_ids = np.zeros(0, dtype=np.int32)
        finish: FinishReason = "stop"
        if self._processor is not None:
            prompt_ids = self._processor.encode(prompt)
            response_ids = self._processor.spell_response(text).token_ids
            if len(response_ids) > sampling.max_tokens:
                response_ids, finish = response_ids[: sampling.max_tokens], "length"
                text = self._processor.decode(response_ids)
        return Completion(
            text=text,
            prompt_token_ids=prompt_ids,
            token_ids=response_ids,
            logprobs=np.zeros(len(response_ids), dtype=np.float32),
            finish_reason=finish,
            weights_version=self._version,
        )
