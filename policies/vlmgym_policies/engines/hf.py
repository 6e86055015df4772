"""The embedded engine: a Hugging Face model of this process, whose batch is open between any two tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import torch

from vlmgym_policies.engine import (
    Completion,
    Delta,
    GenerationError,
    InFlight,
    NoWeightsError,
    OfferedWeights,
    Prompt,
    Sampling,
)
from vlmgym_policies.engines._hf_admission import Admission
from vlmgym_policies.engines._hf_call import Call, Request
from vlmgym_policies.engines._hf_decoder import Decoder, Row
from vlmgym_policies.engines._hf_weights import Weights
from vlmgym_policies.engines._stream import News, Watch, deltas
from vlmgym_policies.processing import VLMProcessor, load_vlm


class HFEngine:
    """Generates with a model of this process; a `StreamingEngine`.

    path: model directory or hub name. max_batch_size: rows that are decoded together. batch_wait_s: an idle engine
    begins when no request has come for so long, or a batch is full; later ones join what runs, some at a time, where
    the architecture lets them. max_model_len: tokens of prompt and response together, by default the model's own bound;
    a prompt loses first turns to leave room for `Sampling.max_tokens`, or is refused without `cut_turns`.
    wait_for_weights: serve nothing until the first `load_weights` (so that a restarted engine never answers with old
    weights).

    One thread decodes; nothing else touches the model. So calls may come from any event loop.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        max_batch_size: int = 256,
        batch_wait_s: float = 0.02,
        max_model_len: int | None = None,
        cut_turns: bool = True,
        in_flight: InFlight = "finish",
        wait_for_weights: bool = False,
    ) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {max_batch_size}")
        if in_flight not in get_args(InFlight):
            raise ValueError(f"in_flight must be one of {', '.join(get_args(InFlight))}, got {in_flight!r}")
        self._processor = VLMProcessor(path)
        model = load_vlm(path, getattr(torch, dtype)).to(device).eval()
        self._weights = Weights(model, torch.device(device))
        self._decoder = Decoder(model, self._processor, torch.device(device))
        self._max_batch_size = max_batch_size
        self._batch_wait_s = batch_wait_s
        self._max_model_len = self._processor.max_model_len if max_model_len is None else max_model_len
        self._cuts_turns = cut_turns
        self._restarts_rows = in_flight == "redo"
        self._thread = ThreadPoolExecutor(1, "hf-engine")
        self._admission = Admission()
        self._running: dict[Row, Request] = {}
        self._lock = threading.Lock()  # guards what follows
        self._version = None if wait_for_weights else 0
        self._waiting: list[Request] = []
        self._num_loads = 0  # that were asked for and have not ended
        self._num_sleeps = self._num_sleeps_over = 0
        self._is_decoding = self._is_paused = self._is_closed = False

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return await self._generate(prompts, sampling, None)

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        if self._restarts_rows:
            raise ValueError("in_flight must be finish for responses that are streamed, got 'redo'")
        return deltas(lambda watch: self._generate(prompts, sampling, watch), self._processor, len(prompts))

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling, watch: Watch | None) -> list[Completion]:
        call = Call(len(prompts), watch)
        with self._lock:
            if self._is_closed:
                raise GenerationError("the engine is closed")
            if self._version is None:
                raise NoWeightsError
            self._waiting += [Request(call, prompt, sampling, index) for index, prompt in enumerate(prompts)]
            self._start_decoding()
        try:
            return await asyncio.wrap_future(call.future) if prompts else []
        finally:
            call.is_over = True

    async def load_weights(self, weights: Mapping[str, torch.Tensor] | str | OfferedWeights, version: int) -> None:
        """As `TrainableEngine.load_weights`. A caller that is cancelled does not stop it."""
        if isinstance(weights, OfferedWeights):
            raise ValueError(f"engine hf takes tensors or a directory, not weights by transport {weights.transport}")
        if not isinstance(weights, str):
            self._weights.check(weights)
        with self._lock:
            self._num_loads += 1
            load = self._thread.submit(self._load, weights, version, self._num_sleeps)
        await asyncio.shield(asyncio.wrap_future(load))

    async def weights_version(self) -> int | None:
        return self._version

    async def pause(self) -> None:
        with self._lock:
            self._is_paused = True
        await asyncio.wrap_future(self._thread.submit(_nothing))

    async def resume(self) -> None:
        with self._lock:
            self._is_paused = False
            self._start_decoding()

    async def sleep(self) -> None:
        with self._lock:
            self._num_sleeps += 1
        await asyncio.wrap_future(self._thread.submit(self._weights.sleep))

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._thread.submit(self._fail_waiting, GenerationError("the engine is closed"))
        self._thread.shutdown()

    def _start_decoding(self) -> None:
        """Unless it goes on, or must not. With the lock held."""
        if self._waiting and not self._is_held and not self._is_decoding:
            self._is_decoding = True
            self._thread.submit(self._decode)

    @property
    def _is_held(self) -> bool:
        is_asleep = self._num_sleeps > self._num_sleeps_over
        return is_asleep or self._is_paused or self._is_closed or self._num_loads > 0

    # All below runs in the engine's thread.

    def _decode(self) -> None:
        """Decodes for as long as there are rows that may run."""
        while (newcomers := self._take()) is not None:
            try:
                self._admit(newcomers)
                if self._running:
                    self._step()
            except Exception as error:
                _fail(self._running.values(), error)
                self._running.clear()
                self._decoder.clear()

    def _take(self) -> list[Request] | None:
        """Requests that join now, maybe none; None where no row runs either, and then decoding has ended."""
        if not self._running:
            self._settle()
        with self._lock:
            if self._is_closed or (self._restarts_rows and self._num_loads):
                self._waiting[:0] = self._running.values()
                self._running.clear()
                self._decoder.clear()
            num = 0 if self._is_held or not self._decoder.can_join else self._num_admitted()
            newcomers, self._waiting = self._waiting[:num], self._waiting[num:]
            self._is_decoding = bool(newcomers or self._running)
            return newcomers if self._is_decoding else None

    def _num_admitted(self) -> int:
        num_free = self._max_batch_size - len(self._running)
        return self._admission.num_admitted(min(num_free, len(self._waiting)), len(self._running))

    def _settle(self) -> None:
        """Waits until no request has come for `batch_wait_s`, or a batch is full."""
        num_seen = 0
        while num_seen < len(self._waiting) < self._max_batch_size and not self._is_held:
            num_seen = len(self._waiting)
            time.sleep(self._batch_wait_s)

    def _admit(self, requests: Sequence[Request]) -> None:
        rows = {}
        for request in requests:
            if not request.call.is_over:
                try:
                    rows[self._row(request)] = request
                except Exception as error:
                    request.call.fail(error)
        rows = {row: request for row, request in rows.items() if not request.call.is_over}
        if not rows:
            return
        try:
            prefilled = self._decoder.prefill([*rows])
        except Exception as error:
            _fail(rows.values(), error)
            return
        self._running |= rows
        self._decoder.join(prefilled)

    def _row(self, request: Request) -> Row:
        """Errors: ValueError where the prompt does not fit; anything where a picture of it cannot be read."""
        room = self._max_model_len - request.sampling.max_tokens
        fitted = self._processor.fit(request.prompt, room, cut_turns=self._cuts_turns)
        for image in fitted.prompt.images:
            self._processor.image_digest(image)  # reads all of it
        return Row(fitted, request.sampling, request.sampling.uniforms(request.index))

    def _step(self) -> None:
        unwanted = [row for row, request in self._running.items() if request.call.is_over]
        ended = self._decoder.step(unwanted)
        for row in unwanted:
            del self._running[row]
        for row in ended:
            if request := self._running.pop(row, None):
                request.call.complete(request.index, self._completion(row))
        for row, request in self._running.items():
            if request.call.watch is not None:
                num_read = len(row.fitted.token_ids)
                request.call.watch(News(request.index, row.token_ids[-1:], num_read, self._served_version()))

    def _completion(self, row: Row) -> Completion:
        return Completion(
            text=self._processor.decode(row.token_ids),
            prompt_token_ids=row.fitted.token_ids,
            token_ids=np.array(row.token_ids, dtype=np.int32),
            logprobs=np.array(row.logprobs, dtype=np.float32),
            finish_reason="stop" if row.token_ids[-1] in self._processor.eos_token_ids else "length",
            weights_version=self._served_version(),
            image_digests=tuple(self._processor.image_digest(image) for image in row.fitted.prompt.images),
            num_cut_turns=row.fitted.num_cut_turns,
        )

    def _served_version(self) -> int:
        assert self._version is not None, "a row ran without weights"
        return self._version

    def _load(self, weights: Mapping[str, torch.Tensor] | str, version: int, num_sleeps: int) -> None:
        """Runs when no row does: decoding ends while a load waits for it. Ends the first `num_sleeps` sleeps only."""
        try:
            if isinstance(weights, str):
                weights = self._weights.read(weights)
                self._weights.check(weights)
            try:
                self._weights.replace(weights)
            except RuntimeError:
                self._version = None
                self._fail_waiting(NoWeightsError())
                raise
            self._version, self._num_sleeps_over = version, num_sleeps
        finally:
            with self._lock:
                self._num_loads -= 1
                self._start_decoding()

    def _fail_waiting(self, error: Exception) -> None:
        with self._lock:
            failed, self._waiting = self._waiting, []
        _fail(failed, error)


def _fail(requests: Iterable[Request], error: Exception) -> None:
    for request in requests:
        request.call.fail(error)


def _nothing() -> None:
    """Ends when all that was asked of a thread before has ended."""
