"""`vlmgym train`: what it takes, in which order it checks, and what a dry run shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def train(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)],
    profile: Annotated[
        str | None, typer.Option(help="Profile of the job; by default what the Ray cluster has decides.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved job, its placement and memory; start nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    resume_or_start: Annotated[
        bool, typer.Option("--resume-or-start", help="The same, where there is a run: for jobs that are retried.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a knob, as grpo.lr=2e-6; repeatable.")
    ] = None,
) -> None:
    """Trains the model of a job. Results are in runs/NAME/."""
    if dry_run:
        _plan(job_file, profile, overrides or [])
    else:
        _train(job_file, profile, overrides or [], resume, resume_or_start)


def _plan(job_file: Path, profile: str | None, overrides: Sequence[str]) -> None:
    import os

    from rich.console import Console

    from vlmgym.cluster import choose_profile, join_cluster, local_resources
    from vlmgym.job import JobFile
    from vlmgym.planning import print_plan

    file = JobFile.read(job_file)
    joined = join_cluster() if "RAY_ADDRESS" in os.environ and profile is None else None
    chosen, reason = choose_profile(file.profiles, joined or local_resources(), profile)
    job = file.resolve(chosen, overrides)
    print(f"vlmgym: {reason}")
    print_plan(Console(highlight=False), job)


def _train(job_file: Path, profile: str | None, overrides: Sequence[str], resume: bool, or_start: bool) -> None:
    from vlmgym.cluster import check_resources, choose_profile, join_cluster, local_resources, start_ray
    from vlmgym.home import at_home
    from vlmgym.job import JobFile
    from vlmgym.model_source import check_model_exists
    from vlmgym.run import is_finished
    from vlmgym.run_dir import holds_run, prepare_run_dir
    from vlmgym.run_lock import run_lock
    from vlmgym.stages import check_stages

    file = JobFile.read(job_file)
    resources = join_cluster() or local_resources()
    chosen, reason = choose_profile(file.profiles, resources, profile)
    job = file.resolve(chosen, overrides)
    job = job.model_copy(update={"output_dir": at_home(job.output_dir)})
    resume = resume or (or_start and holds_run(job))
    check_resources(job, resources)
    check_model_exists(job.model)
    check_stages(job)
    print(f"vlmgym: {reason}")
    with run_lock(job.run_dir):
        for line in prepare_run_dir(job, resume=resume):
            print(f"vlmgym: {line}")
        if resume and is_finished(job):
            print(f"vlmgym: this run is finished, nothing to resume: results in {job.location}")
            return
        print(f"vlmgym: results in {job.location}", flush=True)
        start_ray()
        from vlmgym.train import train_job

        train_job(job, resume=resume)
