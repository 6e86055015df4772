"""Starts vLLM with its processes in an event loop of its own, and ends both."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from typing import Any

_CLOSE_S = 10.0


def on_cpu() -> bool:
    from vllm.platforms import current_platform

    on_cpu: bool = current_platform.is_cpu()
    return on_cpu


async def start_llm(arguments: Mapping[str, Any]) -> Any:
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork would copy locks that threads here hold
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    if on_cpu():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # else a lone worker gets a process of its own
        arguments = {**arguments, "enforce_eager": True, "enable_sleep_mode": False}
    given = {name: value for name, value in arguments.items() if value is not None}
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**given))


def end_llm(llm: Any, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if llm.output_handler is not None:  # it would report the end of the processes as a failure
        loop.call_soon_threadsafe(llm.output_handler.cancel)
    llm.shutdown(timeout=_CLOSE_S)
    end_loop(loop, thread)


def end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
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
