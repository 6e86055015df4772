"""An environment in a thread of its own: a call that hangs costs a time-out, not the runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

Call = tuple[Future[Any], Callable[[], Any]]


class EnvThread:
    """Runs the calls of one environment in order. After a time-out, `close` it and make another.

    A call that never returns keeps its daemon thread; nothing else waits for it.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        Thread(target=self._run, name="env", daemon=True).start()

    async def call(self, method: str, timeout_s: float, *args: Any, **kwargs: Any) -> Any:
        """What `env.method(*args, **kwargs)` returns or raises.

        Raises:
            TimeoutError: it took longer than `timeout_s`.
        """
        future: Future[Any] = Future()
        self._calls.put((future, lambda: getattr(self.env, method)(*args, **kwargs)))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise
            raise TimeoutError(f"env.{method} took longer than {timeout_s:g} s") from error

    def close(self) -> None:
        """Lets the thread end after what it is doing, closing the environment."""
        self._calls.put((Future(), self.env.close))
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
