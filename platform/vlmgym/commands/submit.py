"""`vlmgym submit`: what it takes, in which order it checks, how often it tries, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmgym.errors import BadInput

if TYPE_CHECKING:
    from vlmgym.following import Follower, Outcome
    from vlmgym.submission import Submission

RESUME_OR_START = "--resume-or-start"

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What `submit` does not know is for the command that the job file is for, which reads it before anything is sent."""


def submit(
    context: typer.Context,
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)],
    address: Annotated[
        str | None,
        typer.Option(help="Of the head's dashboard.", show_default="RAY_API_SERVER_ADDRESS, or a head on this machine"),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(help="What the cluster gets a copy of, and runs.", show_default="this checkout, if it is one"),
    ] = None,
    submission_id: Annotated[str | None, typer.Option(help="Names the job.", show_default="one is made")] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show what it prints, and end as it does.")
    ] = True,
    retries: Annotated[
        int, typer.Option(min=0, help="How often to go on from the last checkpoint when the job or its head is lost.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
) -> None:
    """Runs a job file on a Ray cluster; further options are those of `vlmgym train`, or of what the file is for."""
    from vlmgym.submission import Submission

    _check(job_file, context.args)
    if retries and not follow:
        raise typer.BadParameter("must be 0 with --no-follow: nobody would see the job fail", param_hint="--retries")
    submission = Submission.of(job_file, context.args, working_dir)
    if dry_run:
        print(f"entrypoint    {submission.entrypoint}")
        print(f"working_dir   {submission.working_dir}")
        return
    try:
        _submit(submission, address, submission_id, follow, retries)
    except ConnectionError as error:
        raise BadInput(f"no Ray head to submit to: {str(error).splitlines()[0]}") from error


def _check(job_file: Path, arguments: Sequence[str]) -> None:
    """Reads the file and the arguments as the cluster will. Whether paths exist is for the cluster to say."""
    from typer.main import get_command

    from vlmgym.cli import app, command_for
    from vlmgym.job import JobFile

    JobFile.read(job_file)
    group: Any = get_command(app)
    name = command_for(str(job_file))
    command = group.commands[name]
    command.make_context(name, [str(job_file), *arguments])


def _submit(submission: Submission, address: str | None, submission_id: str | None, follow: bool, retries: int) -> None:
    from rich.console import Console

    from vlmgym.following import SUCCEEDED, Follower

    follower = Follower(_connector(address), Console(highlight=False))
    job = _send(follower, submission, submission_id)
    if not follow:
        return
    outcome = _follow(follower, job)
    for num_left in range(retries - 1, -1, -1):
        if not outcome.may_pass:
            break
        print(f"vlmgym: {_told(job, outcome)}; going on from its last checkpoint, {num_left} retries left", flush=True)
        job = _send(follower, submission.with_arguments(RESUME_OR_START), None)
        outcome = _follow(follower, job)
    if outcome.state != SUCCEEDED:
        print(f"vlmgym: {_told(job, outcome)}", flush=True)
        raise typer.Exit(outcome.code)


def _connector(address: str | None) -> Callable[[], Any]:
    """Errors of what it returns: BadInput without the token that the head wants; ConnectionError."""

    def connect() -> Any:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        try:
            return JobSubmissionClient(address)
        except AuthenticationError as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{reason}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, or RAY_AUTH_TOKEN") from error

    return connect


def _send(follower: Follower, submission: Submission, submission_id: str | None) -> str:
    """Errors: BadInput where the head refuses the job, as one whose submission id is taken."""
    try:
        job = follower.submit(
            entrypoint=submission.entrypoint,
            runtime_env=submission.runtime_env,
            metadata={"job_file": submission.name},
            submission_id=submission_id,
        )
    except RuntimeError as error:
        raise BadInput(f"the head refuses the job: {str(error).strip().splitlines()[-1]}") from error
    print(f"vlmgym: submitted {job}: {submission.entrypoint}", flush=True)
    return job


def _follow(follower: Follower, job: str) -> Outcome:
    try:
        return follower.follow(job)
    except KeyboardInterrupt:
        print(f"vlmgym: {job} goes on: `ray job logs --follow {job}`, `ray job stop {job}`", flush=True)
        raise


def _told(job: str, outcome: Outcome) -> str:
    return f"{job} {outcome.state.lower()}, exit code {outcome.code}: {outcome.reason}"
