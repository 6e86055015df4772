"""Decides what becomes of a run directory that exists: moved aside by a new run, gone on with by a resumed one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from vlmgym.job import Job, JobError, load_job, save_job
from vlmgym.remote_copy import RemoteCopy
from vlmgym.storage import Storage

JOB_FILE = "job.yaml"


def holds_run(job: Job) -> bool:
    """Whether there is a run to resume."""
    return (Storage.at(job.location) / JOB_FILE).exists()


def prepare_run_dir(job: Job, *, resume: bool) -> list[str]:
    """Makes the run directory with the resolved job in it; returns lines that say what was done to an earlier one.

    resume: keeps what is there, and names the knobs that changed since.
    Errors: JobError where there is nothing to resume; or where a new run's place on a remote storage is taken, since
        nothing there is moved aside.
    """
    run_dir = job.run_dir
    said: list[str] = []
    if resume:
        if not holds_run(job):
            raise JobError(f"nothing to resume: {job.location} holds no run")
        RemoteCopy(run_dir, Storage.at(job.location)).fetch()
        before = load_job(run_dir / JOB_FILE).model_dump()
        said = [f"changed since the run started: {change}" for change in _changes(before, job.model_dump())]
    elif job.is_remote and holds_run(job):
        raise JobError(f"{job.location} holds a run: resume it, or give the job another name")
    elif run_dir.exists() and any(run_dir.iterdir()):
        aside = next(path for i in count(1) if not (path := run_dir.with_name(f"{run_dir.name}.{i}")).exists())
        run_dir.rename(aside)
        said = [f"the earlier run was moved to {aside}"]
    run_dir.mkdir(parents=True, exist_ok=True)
    save_job(job, run_dir / JOB_FILE)
    return said


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Each knob that differs, as `grpo.lr 1e-06 -> 2e-06`."""
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _changes(old, value, f"{prefix}{key}.")
        elif value != old:
            yield f"{prefix}{key} {old} -> {value}"
