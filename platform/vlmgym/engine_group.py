"""The engines of a run: who serves, who is being replaced, and that nobody serves other weights than the learners'."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from vlmgym.weights import Push

MAX_FAILURES = 3
"""An engine that cannot be started, or refuses weights, so many times in a row stops the run with its reason."""
PROBE_S = 30.0
"""An engine that does not say its version for so long is taken for hung, and replaced."""
POLL_S = 0.5
CLOSE_S = 20.0


@dataclass(slots=True)
class Slot:
    """The place of one engine. coming: the first answer of an actor that is still starting."""

    index: int
    handle: Any
    coming: Any
    serves: bool = False
    num_failures: int = 0


class EngineGroup:
    """Starts the engines, gives them weights, and replaces those that are lost while the others go on.

    start(index): a new actor for slot `index`. push(handles): gives engines the learners' current weights.
    restart_timeout_s: how long to wait for an engine where none is left.
    """

    def __init__(
        self,
        num_engines: int,
        start: Callable[[int], Any],
        push: Callable[[Sequence[Any]], Push],
        restart_timeout_s: float,
    ) -> None:
        self._start = start
        self._push = push
        self._restart_timeout_s = restart_timeout_s
        self._slots = [self._new_slot(index) for index in range(num_engines)]
        self._version: int | None = None
        self.num_replaced = 0

    @property
    def serving(self) -> tuple[Any, ...]:
        """Handles of the engines that have the current weights."""
        return tuple(slot.handle for slot in self._slots if slot.serves)

    @property
    def complete(self) -> bool:
        """Whether all engines serve."""
        return all(slot.serves for slot in self._slots)

    def sync(self) -> int:
        """Gives the learners' current weights to all engines that are there; returns their version.

        The first time it waits until all are. Later it leaves out those that are being replaced, unless none is left.

        Raises:
            RuntimeError: a learner failed, an engine failed too often, or none came back in time.
        """
        if self._version is None:
            ray.wait([slot.coming for slot in self._slots], num_returns=len(self._slots))
            self._welcome()
        self._load([slot for slot in self._slots if slot.coming is None])
        self._wait_for_one()
        assert self._version is not None
        return self._version

    def refresh(self) -> None:
        """Replaces engines that do not answer, and gives those that came back the weights. Raises as `sync`."""
        self._probe()
        self._welcome()
        self._load([slot for slot in self._slots if slot.coming is None and not slot.serves])
        self._wait_for_one()

    def sleep(self) -> None:
        """Puts the engines to sleep until the next `sync`."""
        sleeps = [(slot, slot.handle.sleep.remote()) for slot in self._slots if slot.serves]
        for slot, sleep in sleeps:
            try:
                ray.get(sleep)
            except ray.exceptions.RayActorError:
                self._replace(slot)

    def stop(self) -> None:
        """Ends all engines."""
        closing = [slot.handle.close.remote() for slot in self._slots if slot.coming is None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for slot in self._slots:
            ray.kill(slot.handle)
        self._slots = []

    def _new_slot(self, index: int) -> Slot:
        handle = self._start(index)
        return Slot(index, handle, handle.weights_version.remote())

    def _replace(self, slot: Slot) -> None:
        ray.kill(slot.handle)
        self.num_replaced += 1
        new = self._new_slot(slot.index)
        slot.handle, slot.coming, slot.serves = new.handle, new.coming, False

    def _fail(self, slot: Slot, error: Exception) -> None:
        """Raises RuntimeError where that was one failure too many."""
        slot.num_failures += 1
        if slot.num_failures >= MAX_FAILURES:
            reason = f"engine {slot.index} failed {slot.num_failures} times, last: {_reason(error)}"
            raise RuntimeError(reason) from error

    def _welcome(self) -> None:
        """Takes in the engines that have started since the last time."""
        coming = {slot.coming: slot for slot in self._slots if slot.coming is not None}
        if not coming:
            return
        ready, _ = ray.wait(list(coming), num_returns=len(coming), timeout=0)
        for reference in ready:
            slot = coming[reference]
            try:
                ray.get(reference)
                slot.coming = None
            except ray.exceptions.RayActorError as error:
                if self._version is None:
                    raise RuntimeError(f"engine {slot.index} did not start: {_reason(error)}") from error
                self._fail(slot, error)
                self._replace(slot)

    def _probe(self) -> None:
        """Replaces engines that are gone or hang."""
        probes = {slot.handle.weights_version.remote(): slot for slot in self._slots if slot.coming is None}
        if not probes:
            return
        ready, hung = ray.wait(list(probes), num_returns=len(probes), timeout=PROBE_S)
        for reference in hung:
            self._replace(probes[reference])
        for reference in ready:
            try:
                probes[reference].serves &= ray.get(reference) == self._version
            except ray.exceptions.RayActorError:
                self._replace(probes[reference])

    def _load(self, slots: Sequence[Slot]) -> None:
        """Pushes the weights to these engines; those that do not take them serve no more."""
        if not slots:
            return
        push = self._push([slot.handle for slot in slots])
        self._version = push.version
        for slot, error in zip(slots, push.errors, strict=True):
            slot.serves = error is None
            if error is None:
                slot.num_failures = 0
                continue
            self._fail(slot, error)
            if isinstance(error, ray.exceptions.RayActorError | ray.exceptions.GetTimeoutError):
                self._replace(slot)

    def _wait_for_one(self) -> None:
        deadline = time.monotonic() + self._restart_timeout_s
        while not self.serving:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no engine came back within {self._restart_timeout_s:g} s")
            time.sleep(POLL_S)
            self._welcome()
            self._load([slot for slot in self._slots if slot.coming is None])


def _reason(error: Exception) -> str:
    """The last line of what was raised in an actor."""
    return str(error).strip().splitlines()[-1].strip()
