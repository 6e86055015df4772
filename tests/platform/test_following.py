"""What a follower shows and returns, told by a client that plays a script."""

import io
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

from vlmgym import following
from vlmgym.following import Follower, Outcome

LOST = object()


class ScriptedClient:
    """streams: what each reading of the output gives, from its start; LOST cuts the connection. jobs: that it knows."""

    def __init__(self, streams, status=JobStatus.SUCCEEDED, code=0, message="", jobs=("job",)):
        self.streams = streams
        self.info = SimpleNamespace(status=status, driver_exit_code=code, message=message)
        self.jobs = jobs

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for text in self.streams.pop(0):
            if text is LOST:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield text

    def get_job_status(self, job: str) -> JobStatus:
        return JobStatus.RUNNING

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.info

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=job) for job in self.jobs]


def follow(client: ScriptedClient) -> tuple[Outcome, str]:
    """The outcome, and what was printed but for the states."""
    out = io.StringIO()
    outcome = Follower(lambda: client, Console(file=out, highlight=False)).follow("job")
    lines = out.getvalue().splitlines(keepends=True)
    return outcome, "".join(line for line in lines if line != "vlmgym: job: running\n")


def test_output_is_shown_as_it_is_and_success_is_code_0() -> None:
    outcome, shown = follow(ScriptedClient([["grpo 1/2 [bold]\n", "grpo 2/2\n"]]))
    assert outcome == ("SUCCEEDED", 0, "") and not outcome.may_pass
    assert shown == "grpo 1/2 [bold]\ngrpo 2/2\n"


def test_after_a_lost_connection_nothing_is_shown_twice() -> None:
    _, shown = follow(ScriptedClient([["one\n", "two\n", LOST], ["one\ntwo\nth", "ree\n"]]))
    said = "vlmgym: the head does not answer; waiting for it, at most 300 s\n"
    assert shown == f"one\ntwo\n{said}three\n"


@pytest.mark.parametrize(("code", "told", "may_pass"), [(2, 2, False), (1, 1, True), (None, 1, True), (137, 137, True)])
def test_a_failure_has_the_drivers_code_and_the_last_line_of_its_message(
    code: int | None, told: int, may_pass: bool
) -> None:
    message = "entrypoint failed, last logs:\nTraceback\nvlmgym: no room\n\n"
    outcome, _ = follow(ScriptedClient([["x"]], JobStatus.FAILED, code, message))
    assert outcome == ("FAILED", told, "vlmgym: no room") and outcome.may_pass == may_pass


def test_a_stopped_job_is_not_tried_again() -> None:
    outcome, _ = follow(ScriptedClient([["x"]], JobStatus.STOPPED, None))
    assert outcome.state == "STOPPED" and outcome.code == 1 and not outcome.may_pass


def test_a_head_that_does_not_know_the_job_any_more_lost_it() -> None:
    outcome, _ = follow(ScriptedClient([["one\n", LOST]], jobs=("another",)))
    assert outcome == ("LOST", 1, "the head was lost, and the job with it") and outcome.may_pass


def test_a_head_that_does_not_come_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HEAD_BACK_S", 0.0)
    clients = [ScriptedClient([["one\n", LOST]])]

    def connect() -> ScriptedClient:
        if clients:
            return clients.pop()
        raise ConnectionError("refused")

    follower = Follower(connect, Console(file=io.StringIO()))
    with pytest.raises(ConnectionError, match="refused"):
        follower.follow("job")


def test_a_head_that_has_just_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.0)
    answers = [RuntimeError(f"Request failed with status code 500: {following.NOT_YET}."), "job", RuntimeError("taken")]

    def submit_job(**request: object) -> str:
        answer = answers.pop(0)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    follower = Follower(lambda: SimpleNamespace(submit_job=submit_job), Console(file=io.StringIO()))
    assert follower.submit(entrypoint="true") == "job"
    with pytest.raises(RuntimeError, match="taken"):
        follower.submit(entrypoint="true")


def test_other_errors_are_not_taken_for_a_lost_head() -> None:
    client = ScriptedClient([])
    with pytest.raises(IndexError):
        Follower(lambda: client, Console(file=io.StringIO())).follow("job")
