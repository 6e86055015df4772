"""Lets requests through between two changes of weights, and never during one."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")


class Gate:
    """Lets requests pass while it is open. Once it is closed, those that passed finish or are sent back before it."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._num_inside = 0
        self._attempts: set[asyncio.Task[Any]] = set()
        self._sent_back: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._is_open.set()
        self._is_empty.set()

    async def through(self, request: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """What `request()` gives behind the gate; called again where it was sent back."""
        while True:
            async with self._passed():
                attempt = asyncio.ensure_future(request())
                self._attempts.add(attempt)
                try:
                    await asyncio.wait([attempt])
                finally:
                    self._attempts.remove(attempt)
                    if attempt.cancel():  # for this call was cancelled itself
                        await asyncio.wait([attempt])
            if attempt not in self._sent_back:
                return attempt.result()

    async def close(self, send_back: bool = False) -> None:
        """Returns when nobody is behind the gate."""
        self._is_open.clear()
        if send_back:
            self._sent_back.update(attempt for attempt in self._attempts if attempt.cancel())
        await self._is_empty.wait()

    def open(self) -> None:
        self._is_open.set()

    @asynccontextmanager
    async def _passed(self) -> AsyncIterator[None]:
        while not self._is_open.is_set():  # it may have closed again before this request was woken
            await self._is_open.wait()
        self._num_inside += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self._num_inside -= 1
            if not self._num_inside:
                self._is_empty.set()
