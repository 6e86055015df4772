"""vLLM in processes of its own, its client in an event loop of its own: how they start and how they end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")
_START_S = 1800.0
_CLOSE_S = 10.0
_ON_A_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else a lone worker gets a process of its own
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; else the cache takes nearly all memory, which learners and runners need too
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else threads are bound to cores, whatever else runs there
}
"""Environment variables of vLLM, where they are not set."""


class VLLMProcess:
    """An `AsyncLLM` and the thread with the loop that it runs in.

    llm: the `AsyncLLM`. on_gpu: whether its workers have one.
    """

    def __init__(self, arguments: Mapping[str, Any], can_sleep: bool) -> None:
        """arguments: of vLLM's `AsyncEngineArgs`; those that are None are left to vLLM."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self.llm, self.on_gpu = self.submit(_start(arguments, can_sleep)).result(_START_S)
        except BaseException:
            self._end_loop()
            raise

    def submit(self, call: Coroutine[Any, Any, _T]) -> Any:
        """Runs it in the loop; a `concurrent.futures.Future`."""
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    async def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Runs it in the loop, for a caller in any other; ends with its caller."""
        result: _T = await asyncio.wrap_future(self.submit(call))
        return result

    async def finish(self, call: Coroutine[Any, Any, _T]) -> _T:
        """As `run`, but goes on to its end though its caller is cancelled."""
        result: _T = await asyncio.shield(asyncio.wrap_future(self.submit(call)))
        return result

    def end(self) -> None:
        if self.llm.output_handler is not None:  # it would report the end of the processes as a failure
            self._loop.call_soon_threadsafe(self.llm.output_handler.cancel)
        self.llm.shutdown(timeout=_CLOSE_S)
        self._end_loop()

    def _end_loop(self) -> None:
        if self._thread is threading.current_thread():  # the engine was dropped by its own last request
            self._loop.stop()
            return
        self.submit(_cancel_all()).result(_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        self._loop.close()


async def _start(arguments: Mapping[str, Any], can_sleep: bool) -> tuple[Any, bool]:
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork would copy locks that threads here hold
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_gpu = not current_platform.is_cpu()
    if not on_gpu:
        for name, value in _ON_A_CPU.items():
            os.environ.setdefault(name, value)
    given = {name: value for name, value in arguments.items() if value is not None}
    if not on_gpu:  # where a prompt is read in parts, a request with a seed ends vLLM 0.32: its generator has no offset
        given |= {"enforce_eager": True, "enable_chunked_prefill": False}
    started = AsyncEngineArgs(**given, enable_sleep_mode=on_gpu and can_sleep)
    return AsyncLLM.from_engine_args(started), on_gpu


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
