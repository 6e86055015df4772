"""Where groups are played: an event loop in a thread, so that playing goes on between the calls a runner gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, NamedTuple, TypeVar

from vlmgym.grpo.tasks import FIRST_GAME, Task

T = TypeVar("T")
OnBranchEnd = Callable[[], None]


class Ticket(NamedTuple):
    """A group to play. explore: sample at the configured temperature, else decode greedily."""

    group_id: int
    explore: bool
    task: Task = FIRST_GAME


class Finished(NamedTuple, Generic[T]):
    """A group that was played, or the fault that it met."""

    group_id: int
    outcome: T | Exception


class GroupLoop(Generic[T]):
    """Plays tickets without a barrier between groups: the next group begins when a branch of the others has ended.

    play(slot, ticket, on_branch_end) is awaited in the loop's thread. A slot has one group at a time. A group of
    `group_size` begins as a whole, and only while fewer than `num_branches` branches are played: so there are always
    that many, and less than a group more.
    """

    def __init__(
        self,
        play: Callable[[int, Ticket, OnBranchEnd], Awaitable[T]],
        num_slots: int,
        num_branches: int,
        group_size: int,
    ) -> None:
        self._play = play
        self._group_size = group_size
        self._num_branches = num_branches
        self._num_played = 0
        self._branch_ended = asyncio.Event()
        self._free_slots: asyncio.Queue[int] = asyncio.LifoQueue()
        for slot in reversed(range(num_slots)):
            self._free_slots.put_nowait(slot)
        self._finished: SimpleQueue[Finished[T]] = SimpleQueue()
        self._waiting: asyncio.Queue[Ticket] = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        self._playing = self._loop.create_task(self._play_all())
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

    async def _play_all(self) -> None:
        async with asyncio.TaskGroup() as groups:
            while True:
                ticket = await self._waiting.get()
                while self._num_played >= self._num_branches:
                    self._branch_ended.clear()
                    await self._branch_ended.wait()
                slot = await self._free_slots.get()
                self._num_played += self._group_size
                groups.create_task(self._play_on(slot, ticket))

    async def _play_on(self, slot: int, ticket: Ticket) -> None:
        num_playing = self._group_size

        def on_branch_end() -> None:
            nonlocal num_playing
            num_playing -= 1
            self._num_played -= 1
            self._branch_ended.set()

        try:
            outcome: T | Exception = await self._play(slot, ticket, on_branch_end)
        except Exception as error:
            outcome = error
        while num_playing:
            on_branch_end()
        self._free_slots.put_nowait(slot)
        self._finished.put(Finished(ticket.group_id, outcome))
