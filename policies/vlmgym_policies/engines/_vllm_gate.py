"""Lets requests through between two changes of weights, and never during one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets requests pass while it is open; once closed, it waits until those that passed are done."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._num_inside = 0
        self._is_open.set()
        self._is_empty.set()

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
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

    async def close(self) -> None:
        self._is_open.clear()
        await self._is_empty.wait()

    def open(self) -> None:
        self._is_open.set()
