"""The engine for production: vLLM with its batching, prefix cache and parallel workers, weights pushed into them."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from vlmgym_policies.engine import (
    Completion,
    GenerationError,
    InFlight,
    NoWeightsError,
    OfferedWeights,
    Prompt,
    Sampling,
    missing_extra,
)
from vlmgym_policies.engines._vllm_gate import Gate
from vlmgym_policies.engines._vllm_process import end_llm, end_loop, on_cpu, start_llm
from vlmgym_policies.engines._vllm_request import sampling_params, unused_media, vllm_prompt
from vlmgym_policies.engines._vllm_transport import TRANSPORTS, WeightNames
from vlmgym_policies.processing import FittedPrompt, VLMProcessor, load_vlm

_T = TypeVar("_T")
_FINISH_REASONS = ("stop", "length")
_START_S = 1800.0
_SLEEP_TAGS = ("weights", "kv_cache")
"""What vLLM puts to sleep, in the order in which a load wakes it."""


class VLLMEngine:
    """Generates with vLLM; a `TrainableEngine`.

    path: model directory or hub name. max_batch_size: sequences that are decoded together. tensor_parallel: workers
    that share the model. max_model_len: tokens of prompt and response together; by default the model's own bound.
    block_size: tokens per block of the KV cache, by default vLLM's choice. gpu_memory_utilization: share of each GPU
    for weights and cache. wait_for_weights: serve nothing until the first `load_weights`. transport: how weights get
    into the workers, a name of TRANSPORTS. can_sleep: whether `sleep` will be asked for, which has its price on a GPU.

    vLLM lives in processes of its own and in an event loop of its own, so that calls may come from any loop; `close`
    ends both. It spawns: a script that builds this engine guards its start with `if __name__ == "__main__"`.

    Errors: ModuleNotFoundError without vLLM; ValueError for a model that cannot be loaded or an unknown transport.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: str = "bfloat16",
        max_batch_size: int = 256,
        tensor_parallel: int = 1,
        max_model_len: int | None = None,
        block_size: int | None = None,
        gpu_memory_utilization: float = 0.9,
        wait_for_weights: bool = False,
        transport: str = "shared_memory",
        in_flight: InFlight = "finish",
        can_sleep: bool = False,
    ) -> None:
        if missing := missing_extra("vllm"):
            raise ModuleNotFoundError(missing)
        if transport not in TRANSPORTS:
            raise ValueError(f"transport must be one of {', '.join(sorted(TRANSPORTS))}, got {transport!r}")
        self._transport = TRANSPORTS[transport]()
        self._processor = VLMProcessor(path)
        self._names = WeightNames.of(path)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._version = None if wait_for_weights else 0
        self._request_ids = itertools.count()
        self._in_flight = in_flight
        self._attempts: set[asyncio.Task[Completion]] = set()
        self._given_up: weakref.WeakSet[asyncio.Task[Completion]] = weakref.WeakSet()
        self._gate = Gate()
        self._paused = False
        self._can_sleep = can_sleep
        self._asleep: list[str] = []
        self._loading = asyncio.Lock()
        arguments = {
            "model": path,
            "dtype": dtype,
            "max_num_seqs": max_batch_size,
            "tensor_parallel_size": tensor_parallel,
            "distributed_executor_backend": "uni" if tensor_parallel == 1 else "mp",
            "max_model_len": max_model_len,
            "block_size": block_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "worker_extension_cls": "vlmgym_policies.engines._vllm_worker.WorkerExtension",
            "weight_transfer_config": {"backend": self._transport.backend},
            "limit_mm_per_prompt": unused_media(path),
            "seed": 0,
            "disable_log_stats": True,
            "enable_sleep_mode": can_sleep,
        }
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        thread.start()
        try:
            self._llm = asyncio.run_coroutine_threadsafe(start_llm(arguments), self._loop).result(_START_S)
        except BaseException:
            end_loop(self._loop, thread)
            raise
        self._end = weakref.finalize(self, end_llm, self._llm, self._loop, thread)  # also at the interpreter's exit
        self._max_model_len: int = self._llm.model_config.max_model_len

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return await self._on_own_loop(self._generate(prompts, sampling))

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str | OfferedWeights, version: int) -> None:
        """As of `TrainableEngine`; loads in the order of the calls. A caller that is cancelled does not stop a load."""
        load = asyncio.run_coroutine_threadsafe(self._load_weights(weights, version), self._loop)
        await asyncio.shield(asyncio.wrap_future(load))

    async def weights_version(self) -> int | None:
        return self._version

    async def pause(self) -> None:
        await self._on_own_loop(self._pause())

    async def resume(self) -> None:
        await self._on_own_loop(self._resume())

    async def sleep(self) -> None:
        """On a GPU, drops the weights and the KV cache. Errors: ValueError there without the option can_sleep."""
        await self._on_own_loop(self._sleep())

    def close(self) -> None:
        """Ends vLLM's processes; requests under way fail. More than once does no harm."""
        self._end()

    async def _on_own_loop(self, call: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def _pause(self) -> None:
        self._paused = True
        await self._gate.close()

    async def _resume(self) -> None:
        self._paused = False
        if not self._loading.locked():
            self._open()

    def _open(self) -> None:
        """Lets requests through, unless something else holds them."""
        if not self._paused and not self._asleep:
            self._gate.open()

    async def _drain(self) -> None:
        """Returns when nothing is being generated; later requests wait."""
        if self._in_flight == "redo":
            self._given_up.update(self._attempts)
            for attempt in self._attempts:
                attempt.cancel()
        await self._gate.close()

    async def _sleep(self) -> None:
        if not (on_cpu() or self._can_sleep):
            raise ValueError("can_sleep must be True for an engine that is put to sleep")
        async with self._loading:
            await self._drain()
            self._asleep = list(_SLEEP_TAGS)
            if not on_cpu():
                await self._llm.sleep(level=2, mode="wait")

    async def _load_weights(self, weights: Mapping[str, torch.Tensor] | str | OfferedWeights, version: int) -> None:
        async with self._loading:  # in the order of the calls
            try:
                prepared = await self._prepare(weights)
                await self._drain()
                await self._push(prepared, version)
            finally:
                self._open()

    async def _prepare(
        self, weights: Mapping[str, torch.Tensor] | str | OfferedWeights
    ) -> dict[str, torch.Tensor] | OfferedWeights:
        if isinstance(weights, OfferedWeights):
            return weights
        named = (await self._read(weights)) if isinstance(weights, str) else weights
        return await asyncio.to_thread(self._names.prepare, named, self._dtype)

    async def _read(self, path: str) -> dict[str, torch.Tensor]:
        model: torch.nn.Module = await asyncio.to_thread(load_vlm, path, self._dtype)
        return model.state_dict()

    async def _push(self, weights: dict[str, torch.Tensor] | OfferedWeights, version: int) -> None:
        """Clears every cache: vLLM's caches of prefixes and of pictures would answer with the old model's features."""
        try:
            await self._wake("weights")
            await self._llm.pause_generation(mode="wait", clear_cache=True)
            if isinstance(weights, OfferedWeights):
                await self._transport.take(self._llm, weights)
            else:
                await self._transport.push(self._llm, weights)
            await self._wake("kv_cache")
            await self._llm.resume_generation()
        except BaseException:
            self._version = None
            raise
        self._version = version

    async def _wake(self, tag: str) -> None:
        if tag in self._asleep:
            if not on_cpu():
                await self._llm.wake_up(tags=[tag])
            self._asleep.remove(tag)

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        answers = [asyncio.ensure_future(self._answer(prompt, sampling, index)) for index, prompt in enumerate(prompts)]
        try:
            return list(await asyncio.gather(*answers))
        finally:
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)

    async def _answer(self, prompt: Prompt, sampling: Sampling, index: int) -> Completion:
        """Tries until an attempt is not given up for new weights."""
        while True:
            if self._version is None and not self._asleep:
                raise NoWeightsError
            async with self._gate.passed():
                if self._version is None:
                    raise NoWeightsError
                attempt = asyncio.ensure_future(self._complete(prompt, sampling, index, self._version))
                self._attempts.add(attempt)
                try:
                    return await attempt
                except asyncio.CancelledError:
                    caller = asyncio.current_task()
                    if attempt not in self._given_up or (caller is not None and caller.cancelling()):
                        raise
                finally:
                    self._attempts.discard(attempt)

    async def _complete(self, prompt: Prompt, sampling: Sampling, index: int, version: int) -> Completion:
        fitted = self._processor.fit(prompt, self._max_model_len - sampling.max_tokens)
        request = vllm_prompt(fitted.prompt, fitted.token_ids, self._processor.image_token_id)
        params = sampling_params(sampling, index, self._processor)
        stream = self._llm.generate(request, params, request_id=str(next(self._request_ids)))
        *_, output = [output async for output in stream]
        if output.outputs[0].finish_reason not in _FINISH_REASONS:
            raise GenerationError(f"vLLM gave a prompt up: {output.outputs[0].finish_reason}")
        if not np.array_equal(output.prompt_token_ids, fitted.token_ids):
            raise ValueError(
                f"vLLM made {len(output.prompt_token_ids)} ids of a prompt that has {len(fitted.token_ids)}: "
                "it reads pictures or placeholders of this model in another way"
            )
        return _completion(self._processor, fitted, output.outputs[0], version)


def _completion(processor: VLMProcessor, fitted: FittedPrompt, output: Any, version: int) -> Completion:
    token_ids = np.array(output.token_ids, dtype=np.int32)
    logprobs = [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)]
    return Completion(
        text=processor.decode(token_ids),
        prompt_token_ids=fitted.token_ids,
        token_ids=token_ids,
        logprobs=np.array(logprobs, dtype=np.float32),
        finish_reason=output.finish_reason,
        weights_version=version,
        image_digests=tuple(processor.image_digest(image) for image in fitted.prompt.images),
        num_cut_turns=fitted.num_cut_turns,
    )
