"""What ends a run early, and when it goes on by itself: stop signals and failures."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vlmgym.metrics_file import Point


@contextmanager
def stop_signal(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that is set by SIGTERM, which a preempted pod and a stopped Ray job get. A second one ends the process.

    Where this is not the process's main thread, nothing sets it.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say("SIGTERM: stopping with a checkpoint")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


class Restarts:
    """Decides whether a run that failed goes on from its last checkpoint.

    It does where it made progress, at most `limit` times: not after a failure before any step, nor at the step at which
    it failed the last time, for the reason is then likely to be met again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failed_after: Point | None = None
        self.count = 0

    def allow(self, start: Point | None, reached: Point | None) -> bool:
        """Counts a restart, if there is to be one. start, reached: the last step done before and in this attempt."""
        again = reached != start and reached != self._failed_after and self.count < self._limit
        self._failed_after = reached
        self.count += again
        return again
