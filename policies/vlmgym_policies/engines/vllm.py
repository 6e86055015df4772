"""The engine for production: vLLM with its batching, prefix cache and parallel workers, weights pushed into them."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch

from vlmgym_policies.engine import (
    Completion,
    Delta,
    GenerationError,
    InFlight,
    OfferedWeights,
    Prompt,
    Sampling,
    missing_extra,
)
from vlmgym_policies.engines._stream import News, Watch, deltas
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_process import VLLMProcess
from vlmgym_policies.engines._vllm_request import sampling_params, unused_media, vllm_prompt
from vlmgym_policies.engines._vllm_transport import BACKENDS, make_transport
from vlmgym_policies.engines._vllm_weights import ServedWeights
from vlmgym_policies.processing import FittedPrompt, VLMProcessor

WORKER_EXTENSION = "vlmgym_policies.engines._vllm_worker.WorkerExtension"
_FINISH_REASONS = ("stop", "length")


class VLLMEngine:
    """Generates with vLLM; a `StreamingEngine`.

    path: model directory or hub name. max_batch_size: sequences that are decoded together. tensor_parallel: workers
    that share the model. max_model_len: tokens of prompt and response together, by default the model's own bound; a
    prompt loses first turns to leave room for `Sampling.max_tokens`, or is refused without `cut_turns`. block_size:
    tokens per block of the KV cache, by default vLLM's choice. gpu_memory_utilization: share of each GPU for weights
    and cache. wait_for_weights: serve nothing until the first `load_weights`. transport: how weights get into the
    workers. "shared_memory" takes tensors or a directory; "nccl" and "ipc" take what a trainer offers
    (`_vllm_sender`). can_sleep: whether `sleep` may give memory of a GPU back, for which vLLM has to allocate it in
    another way.

    vLLM lives in processes of its own and in an event loop of its own, so that calls may come from any loop; `close`
    ends both. It spawns: a script that builds this engine guards its start with `if __name__ == "__main__"`.

    Errors: ModuleNotFoundError without vLLM; ValueError for a model that cannot be loaded or an unknown option value.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: str = "bfloat16",
        max_batch_size: int = 256,
        tensor_parallel: int = 1,
        max_model_len: int | None = None,
        cut_turns: bool = True,
        block_size: int | None = None,
        gpu_memory_utilization: float = 0.9,
        in_flight: InFlight = "finish",
        wait_for_weights: bool = False,
        transport: str = "shared_memory",
        can_sleep: bool = False,
    ) -> None:
        if missing := missing_extra("vllm"):
            raise ModuleNotFoundError(missing)
        if in_flight not in get_args(InFlight):
            raise ValueError(f"in_flight must be one of {', '.join(get_args(InFlight))}, got {in_flight!r}")
        if transport not in BACKENDS:
            raise ValueError(f"transport must be one of {', '.join(BACKENDS)}, got {transport!r}")
        self._processor = VLMProcessor(path)
        self._request_ids = itertools.count()
        self._can_sleep = can_sleep
        self._cuts_turns = cut_turns
        self._restarts_requests = in_flight == "redo"
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
            "worker_extension_cls": WORKER_EXTENSION,
            "weight_transfer_config": {"backend": BACKENDS[transport]},
            "limit_mm_per_prompt": unused_media(path),
            "seed": 0,
            "disable_log_stats": True,
        }
        self._process = VLLMProcess(arguments, can_sleep)
        self._end = weakref.finalize(self, self._process.end)  # also at the interpreter's exit
        self._llm = self._process.llm
        self._max_model_len: int = self._llm.model_config.max_model_len
        self._weights = ServedWeights(
            self._llm,
            make_transport(transport, WeightNames.of(path), getattr(torch, dtype)),
            in_flight,
            version=None if wait_for_weights else 0,
            frees_memory=self._process.on_gpu,
        )

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return await self._process.run(self._generate(prompts, sampling, None))

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        if self._restarts_requests:
            raise ValueError("in_flight must be finish for responses that are streamed, got 'redo'")

        async def answer(watch: Watch) -> list[Completion]:
            return await self._process.run(self._generate(prompts, sampling, watch))

        return deltas(answer, self._processor, len(prompts))

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str | OfferedWeights, version: int) -> None:
        """As `TrainableEngine.load_weights`; goes on to its end though its caller is cancelled."""
        await self._process.finish(self._weights.load(weights, version))

    async def weights_version(self) -> int | None:
        return self._weights.version

    async def pause(self) -> None:
        await self._process.run(self._weights.pause())

    async def resume(self) -> None:
        await self._process.run(self._weights.resume())

    async def sleep(self) -> None:
        """As `TrainableEngine.sleep`. Without a GPU there is nothing to give back, and requests wait all the same.

        Raises: ValueError on a GPU without `can_sleep`.
        """
        if self._process.on_gpu and not self._can_sleep:
            raise ValueError("can_sleep must be True for an engine that is to sleep on a GPU, got False")
        await self._process.finish(self._weights.sleep())

    def close(self) -> None:
        """Ends vLLM's processes; requests under way fail. More than once does no harm."""
        self._end()

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling, watch: Watch | None) -> list[Completion]:
        requests = [
            asyncio.ensure_future(self._serve(prompt, sampling, index, watch)) for index, prompt in enumerate(prompts)
        ]
        try:
            return list(await asyncio.gather(*requests))
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    async def _serve(self, prompt: Prompt, sampling: Sampling, index: int, watch: Watch | None) -> Completion:
        fitted = self._processor.fit(prompt, self._max_model_len - sampling.max_tokens, cut_turns=self._cuts_turns)
        return await self._weights.serve(lambda version: self._complete(fitted, sampling, index, version, watch))

    async def _complete(
        self, fitted: FittedPrompt, sampling: Sampling, index: int, version: int, watch: Watch | None
    ) -> Completion:
        request = vllm_prompt(fitted.prompt, fitted.token_ids, self._processor.image_token_id)
        params = sampling_params(sampling, index, self._processor, in_parts=watch is not None)
        outputs = []
        async for output in self._llm.generate(request, params, request_id=str(next(self._request_ids))):
            outputs.append(output.outputs[0])
            if watch is not None and not output.finished:
                watch(News(index, list(output.outputs[0].token_ids), len(fitted.token_ids), version))
        if outputs[-1].finish_reason not in _FINISH_REASONS:
            raise GenerationError(f"vLLM gave a prompt up: {outputs[-1].finish_reason}")
        if not np.array_equal(output.prompt_token_ids, fitted.token_ids):
            raise ValueError(
                f"vLLM made {len(output.prompt_token_ids)} ids of a prompt that has {len(fitted.token_ids)}: "
                "it reads pictures or placeholders of this model in another way"
            )
        completion = _completion(self._processor, fitted, outputs, version)
        if watch is not None:
            watch(News(index, list(outputs[-1].token_ids), len(fitted.token_ids), version, completion))
        return completion


def _completion(processor: VLMProcessor, fitted: FittedPrompt, outputs: Sequence[Any], version: int) -> Completion:
    """outputs: parts of one response, in order."""
    token_ids = np.array([token for output in outputs for token in output.token_ids], dtype=np.int32)
    steps = [step for output in outputs for step in output.logprobs or ()]
    logprobs = [step[token].logprob for step, token in zip(steps, token_ids.tolist(), strict=True)]
    return Completion(
        text=processor.decode(token_ids),
        prompt_token_ids=fitted.token_ids,
        token_ids=token_ids,
        logprobs=np.array(logprobs, dtype=np.float32),
        finish_reason=outputs[-1].finish_reason,
        weights_version=version,
        image_digests=tuple(processor.image_digest(image) for image in fitted.prompt.images),
        num_cut_turns=fitted.num_cut_turns,
    )
