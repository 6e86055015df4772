"""The embedded engine: Hugging Face `generate` with pictures and KV cache, requests that wait batched together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from vlmgym_policies.engine import Completion, NoWeightsError, Prompt, Sampling
from vlmgym_policies.processing import VLMProcessor, load_vlm


class _Request(NamedTuple):
    prompt: Prompt
    sampling: Sampling
    position: int
    future: asyncio.Future[Completion]


class HFEngine:
    """Generates with a model of this process; an `Engine`.

    path: model directory or hub name. wait_for_weights: serve nothing until the first `load_weights` (so that a
    restarted engine never answers with old weights). max_batch_size: sequences per forward pass.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        max_batch_size: int = 256,
        batch_wait_s: float = 0.02,
        wait_for_weights: bool = False,
    ) -> None:
        self._processor = VLMProcessor(path)
        self._model = load_vlm(path, getattr(torch, dtype)).to(device).eval()
        self._max_batch_size = max_batch_size
        self._batch_wait_s = batch_wait_s
        self._version = None if wait_for_weights else 0
        self._waiting: list[_Request] = []
        self._arrived = asyncio.Event()
        self._open = asyncio.Event()
        self._idle = asyncio.Lock()
        self._server: asyncio.Task[None] | None = None
        self._open.set()

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        if self._version is None:
            raise NoWeightsError
        loop = asyncio.get_running_loop()
        if self._server is None or self._server.get_loop() is not loop:
            self._arrived, self._idle = asyncio.Event(), asyncio.Lock()
            self._server = loop.create_task(self._serve())
        requests = [_Request(p, sampling, i, loop.create_future()) for i, p in enumerate(prompts)]
        self._waiting += requests
        self._arrived.set()
        return list(await asyncio.gather(*(request.future for request in requests)))

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str, version: int) -> None:
        async with self._idle:
            if isinstance(weights, str):
                weights = load_vlm(weights, self._model.dtype).state_dict()
            self._model.load_state_dict(weights)
            self._version = version

    async def weights_version(self) -> int | None:
        return self._version

    async def pause(self) -> None:
        self._open.clear()
        async with self._idle:
            pass

    async def resume(self) -> None:
        self._open.set()

    async def _serve(self) -> None:
        """Batches whatever waits, for as long as this engine lives."""
        while True:
            await self._arrived.wait()
            await self._settle()
            await self._open.wait()
            async with self._idle:
                batch, self._waiting = self._waiting[: self._max_batch_size], self._waiting[self._max_batch_size :]
                if not self._waiting:
                    self._arrived.clear()
                if batch:
                    await self._answer(batch)

    async def _settle(self) -> None:
        """Waits until no request has come for `batch_wait_s`, or a batch is full."""
        seen = 0
        while seen < len(self._waiting) < self._max_batch_size:
            seen = len(self._waiting)
            await asyncio.sleep(self._batch_wait_s)

    async def _answer(self, batch: list[_Request]) -> None:
        assert self._version is not None
        try:
            completions = await asyncio.to_thread(self._complete, batch, self._version)
        except Exception as error:
            for request in batch:
                request.future.set_exception(error)
            return
        for request, completion in zip(batch, completions, strict=True):
            if not request.future.done():
                request.future.set_result(completion)

    def _complete(self, batch: list[_Request], version: int) -> list[Completion]:
        return complete(self._model, self._processor, [r[:3] for r in batch], version)


@torch.inference_mode()
def complete(
    model: PreTrainedModel, processor: VLMProcessor, requests: Sequence[tuple[Prompt, Sampling, int]], version: int
) -> list[Completion]:
    """Answers (prompt, sampling, index) requests in one batch."""
    encoded = [processor.encode(prompt) for prompt, _, _ in requests]
    samplings = [sampling for _, sampling, _ in requests]
    inputs = processor.collate(encoded, [p.images for p, _, _ in requests], padding="left")
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    sampler = SeededSampler(samplings, [index for _, _, index in requests], processor.banned_token_ids)
    model.generation_config = GenerationConfig(
        eos_token_id=list(processor.eos_token_ids),
        pad_token_id=processor.pad_token_id,
        max_new_tokens=max(s.max_tokens for s in samplings),
        do_sample=False,
    )
    model.generate(**inputs, logits_processor=LogitsProcessorList([sampler]))
    token_ids, logprobs = sampler.drawn()
    return [
        _completion(processor, prompt, prompt_ids, token_ids[row][: s.max_tokens], logprobs[row], version)
        for row, ((prompt, s, _), prompt_ids) in enumerate(zip(requests, encoded, strict=True))
    ]


def _completion(
    processor: VLMProcessor, prompt: Prompt, prompt_ids: Any, token_ids: Any, logprobs: Any, version: int
) -> Completion:
    ends = np.flatnonzero(np.isin(token_ids, processor.eos_token_ids))
    length = int(ends[0]) + 1 if len(ends) else len(token_ids)
    return Completion(
        text=processor.decode(token_ids[:length]),
        prompt_token_ids=prompt_ids,
        token_ids=token_ids[:length].astype(np.int32),
        logprobs=logprobs[:length].astype(np.float32),
        finish_reason="stop" if len(ends) else "length",
        weights_version=version,
        image_digests=tuple(processor.image_digest(image) for image in prompt.images),
    )


class SeededSampler(LogitsProcessor):
    """Draws each row's token by inverting the distribution function at a number that the row's seed fixes.

    So a draw does not depend on what shares the batch. `generate` then merely takes the argmax of what is returned.
    """

    def __init__(self, samplings: Sequence[Sampling], indices: Sequence[int], banned: Sequence[int]) -> None:
        steps = max(s.max_tokens for s in samplings)
        uniforms = [np.resize(s.uniforms(i), steps) for s, i in zip(samplings, indices, strict=True)]
        self._uniforms = torch.from_numpy(np.stack(uniforms))
        self._temperature = torch.tensor([[s.temperature] for s in samplings])
        self._banned = torch.tensor(banned, dtype=torch.int64)
        self._token_ids: list[torch.Tensor] = []
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        greedy = self._temperature.to(scores.device) == 0
        scale = torch.where(greedy, 1.0, self._temperature.to(scores.device))
        scores = scores.float().index_fill(1, self._banned.to(scores.device), float("-inf"))
        logprobs = torch.log_softmax(scores / scale, dim=-1)
        mass = logprobs.double().exp().cumsum(dim=-1)
        level = self._uniforms[:, len(self._token_ids), None].to(scores.device) * mass[:, -1:]
        drawn = torch.searchsorted(mass, level, right=True)
        token = torch.where(greedy, scores.argmax(dim=-1, keepdim=True), drawn)
        self._token_ids.append(token)
        self._logprobs.append(logprobs.gather(1, token))
        return torch.full_like(scores, float("-inf")).scatter(1, token, 0.0)

    def drawn(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Token ids and log-probabilities of all steps, [B, T] each."""
        return torch.cat(self._token_ids, 1).cpu().numpy(), torch.cat(self._logprobs, 1).cpu().numpy()
