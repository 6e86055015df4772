"""Trains a job where a Ray cluster is connected."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from vlmgym.job import Job, JobError
from vlmgym.run import Run
from vlmgym.stages import check_stages


def train_job(job: Job, *, resume: bool = False, console: Console | None = None) -> Path:
    """Trains `job` on the Ray cluster that is connected; returns the run directory.

    resume: go on from the last checkpoint in the run directory, with the same metrics file.

    Raises:
        JobError: the job cannot run as it is written; found before anything is trained.
    """
    check_stages(job)
    try:
        run = Run(job, console or Console(highlight=False), resume=resume)
    except ValueError as error:
        raise JobError(str(error)) from error
    run.train()
    return job.run_dir
