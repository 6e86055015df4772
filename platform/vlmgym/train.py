"""Trains a job where a Ray cluster is connected, and goes on after failures."""

from __future__ import annotations

import threading
from pathlib import Path

from rich.console import Console

from vlmgym.job import Job, JobError
from vlmgym.run import Run
from vlmgym.stages import check_stages
from vlmgym.supervision import Restarts, stop_signal


def train_job(
    job: Job, *, resume: bool = False, console: Console | None = None, stop: threading.Event | None = None
) -> Path:
    """Trains `job` on the Ray cluster that is connected; returns the run directory.

    A failure after some progress begins again at the last checkpoint, at most `job.max_restarts` times.

    resume: go on from the last checkpoint in the run directory, with the same metrics file.
    stop: ends the run early, with a checkpoint, once it is set; SIGTERM does the same.

    Raises:
        JobError: the job cannot run as it is written; found before anything is trained.
    """
    check_stages(job)
    console = console or Console(highlight=False)
    restarts = Restarts(job.max_restarts)
    with stop_signal(lambda text: console.print(text, markup=False)) as signalled:
        stop = stop or signalled
        while True:
            try:
                run = Run(job, console, resume=resume, num_restarts=restarts.count, stop=stop)
            except ValueError as error:
                raise JobError(str(error)) from error
            start = run.reached
            try:
                run.train()
            except Exception as error:
                if isinstance(error, JobError) or not restarts.allow(start, run.reached):
                    raise
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                console.print(f"failed: {reason}", markup=False, soft_wrap=True)
                console.print(f"restart {restarts.count} of at most {job.max_restarts}", markup=False)
                resume = True
            else:
                return job.run_dir
