"""Decides what is shown of a submitted job until it ends, and when it counts as lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

from rich.console import Console

HEAD_BACK_S = 300.0
"""So long a head that does not answer is waited for."""
POLL_S = 1.0
NOT_YET = "No available agent to submit job"
"""What a head says while the agent that starts jobs is still starting."""
SUCCEEDED, FAILED, STOPPED, LOST = "SUCCEEDED", "FAILED", "STOPPED", "LOST"
FAILED_CODE = 1
BAD_INPUT_CODE = 2


class Outcome(NamedTuple):
    """How a job ended. state: Ray's, or LOST with its head. code: the driver's, where it got so far. reason: a line."""

    state: str
    code: int
    reason: str

    @property
    def may_pass(self) -> bool:
        """Whether the same job may end otherwise another time."""
        return self.state == LOST or (self.state == FAILED and self.code != BAD_INPUT_CODE)


class Follower:
    """Shows the states of jobs and what their drivers print, also over lost connections.

    connect(): a `JobSubmissionClient`; raises ConnectionError while the head does not answer.
    """

    def __init__(self, connect: Callable[[], Any], console: Console) -> None:
        self._connect = connect
        self._console = console
        self._client = connect()

    def submit(self, **request: Any) -> str:
        """As `JobSubmissionClient.submit_job`; waits for a head that has just been started. Raises: RuntimeError."""
        deadline = time.monotonic() + HEAD_BACK_S
        while True:
            try:
                job: str = self._client.submit_job(**request)
                return job
            except RuntimeError as error:
                if NOT_YET not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def follow(self, job: str) -> Outcome:
        """Returns when the job has ended. Raises: ConnectionError where its head does not come back."""
        stream = _Stream(self._console)
        while True:
            try:
                asyncio.run(self._watch(job, stream))
                info = self._client.get_job_info(job)
                if info.status.is_terminal():
                    return _outcome(info)
            except Exception as error:
                if not _is_lost_connection(error):
                    raise
                self._say(f"the head does not answer; waiting for it, at most {HEAD_BACK_S:g} s")
                self._client = self._reconnect()
                if job not in {known.submission_id for known in self._client.list_jobs()}:
                    return Outcome(LOST, FAILED_CODE, "the head was lost, and the job with it")

    async def _watch(self, job: str, stream: _Stream) -> None:
        """Until the driver's output ends."""
        status = self._console.status(job) if self._console.is_terminal else None
        with status or nullcontext():
            watching = asyncio.create_task(self._watch_state(job, status))
            try:
                stream.start_over()
                async for text in self._client.tail_job_logs(job):
                    stream.show(text)
            finally:
                watching.cancel()

    async def _watch_state(self, job: str, status: Any) -> None:
        said, started_s = "", time.monotonic()
        while True:
            state = (await asyncio.to_thread(self._client.get_job_status, job)).value.lower()
            if status is not None:
                minutes, seconds = divmod(int(time.monotonic() - started_s), 60)
                status.update(f"{job} {state}, {minutes} min {seconds:02d} s")
            elif state != said:
                self._say(f"{job}: {state}")
            said = state
            await asyncio.sleep(POLL_S)

    def _reconnect(self) -> Any:
        deadline = time.monotonic() + HEAD_BACK_S
        while True:
            try:
                return self._connect()
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _say(self, line: str) -> None:
        self._console.out(f"vlmgym: {line}", highlight=False)


class _Stream:
    """Prints what a driver has printed, each part once, though reading starts over after a lost connection."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_shown = 0
        self._num_read = 0

    def start_over(self) -> None:
        self._num_read = 0

    def show(self, text: str) -> None:
        new = text[max(0, self._num_shown - self._num_read) :]
        self._num_read += len(text)
        self._num_shown = max(self._num_shown, self._num_read)
        if new:
            self._console.out(new, end="", highlight=False)


def _outcome(info: Any) -> Outcome:
    state = info.status.value
    if state == SUCCEEDED:
        return Outcome(state, 0, "")
    lines = [line.strip() for line in (info.message or "").splitlines() if line.strip()]
    return Outcome(state, info.driver_exit_code or FAILED_CODE, lines[-1] if lines else "no reason given")


def _is_lost_connection(error: Exception) -> bool:
    """Whether the head went away, by what its client raises then."""
    import aiohttp
    import requests

    if isinstance(error, RuntimeError):
        return "closed unexpectedly" in str(error)
    return isinstance(error, ConnectionError | requests.RequestException | aiohttp.ClientError)
