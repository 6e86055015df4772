"""Where groups are played: an event loop in a thread, so that playing goes on between the calls a runner gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Ticket(NamedTuple):
    """A group to play. explore: sample at the configured temperature, else decode greedily."""

    group_id: int
    explore: bool


class Finished(NamedTuple, Generic[T]):
    """A group that was played, or the fault that it met."""

    group_id: int
    outcome: T | Exception


class GroupLoop(Generic[T]):
    """Plays tickets, `num_slots` at once, each slot one group at a time, without a barrier between groups.

    play(slot, ticket) is awaited in the loop's thread.
    """

    def __init__(self, play: Callable[[int, Ticket], Awaitable[T]], num_slots: int) -> None:
        self._play = play
        self._finished: SimpleQueue[Finished[T]] = SimpleQueue()
        self._waiting: asyncio.Queue[Ticket] = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        self._playing = self._loop.create_task(self._play_all(num_slots))
        self._thread = Thread(target=self._run, name="groups", daemon=True)
        self._thread.start()

    def submit(self, tickets: Iterable[Ticket]) -> None:
        """Queues groups; returns at once."""
        for ticket in tickets:
            self._loop.call_soon_threadsafe(self._waiting.put_nowait, ticket)

    def take(self, timeout_s: float | None) -> list[Finished[T]]:
        """What has finished since the last call; waits for the first at most `timeout_s`, for ever where None."""
        finished: list[Finished[T]] = []
        try:
            finished.append(self._finished.get(timeout=timeout_s))
            while True:
                finished.append(self._finished.get_nowait())
        except Empty:
            return finished

    def stop(self) -> None:
        """Gives up what is being played; may be called again."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._playing.cancel)
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._playing)
        self._loop.close()

    async def _play_all(self, num_slots: int) -> None:
        async with asyncio.TaskGroup() as slots:
            for slot in range(num_slots):
                slots.create_task(self._play_on(slot))

    async def _play_on(self, slot: int) -> None:
        while True:
            ticket = await self._waiting.get()
            try:
                outcome: T | Exception = await self._play(slot, ticket)
            except Exception as error:
                outcome = error
            self._finished.put(Finished(ticket.group_id, outcome))
