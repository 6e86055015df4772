"""Decides how a job file gets to a Ray cluster: which files travel with it, and which command runs there."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmgym.cluster import SOURCE_ROOTS, checkout_root
from vlmgym.job import JobError

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Submission:
    """What a cluster is asked to do. command: runs in a copy of `working_dir`, which every node gets."""

    name: str
    command: tuple[str, ...]
    working_dir: Path

    @classmethod
    def of(cls, job_file: Path, arguments: Sequence[str] = (), working_dir: Path | None = None) -> Submission:
        """A job file with arguments of `vlmgym`, or of the command that the file is for.

        working_dir: by default the checkout that this code is; for an installed package, the folder of the job file.
        Errors: JobError where the job file is not in the working directory.
        """
        path = job_file.resolve()
        root = (working_dir or checkout_root() or path.parent).resolve()
        if not root.is_dir():
            raise JobError(f"the working directory {root} does not exist")
        if not path.is_relative_to(root):
            raise JobError(
                f"the job file must lie in the working directory {root}, which is what the cluster gets, "
                f"got {path}: --working-dir names another one"
            )
        command = ("python", "-m", "vlmgym", path.relative_to(root).as_posix(), *arguments)
        return cls(path.stem, command, root)

    def with_arguments(self, *arguments: str) -> Submission:
        return replace(self, command=(*self.command, *arguments))

    @property
    def entrypoint(self) -> str:
        return shlex.join(self.command)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The code in the working directory runs, where there is any; else what is installed on the cluster."""
        path = os.pathsep.join(SOURCE_ROOTS)
        return {"working_dir": str(self.working_dir), "env_vars": {"PYTHONPATH": path}}


def submit_hook(
    *,
    entrypoint: Sequence[str],
    address: str | None = None,
    submission_id: str | None = None,
    job_id: str | None = None,
    no_wait: bool = False,
    **others: Any,
) -> None:
    """For RAY_JOB_SUBMIT_HOOK=vlmgym.submission.submit_hook: `ray job submit` of a job file becomes `vlmgym submit`.

    Anything else, or a submission that says itself what it runs in, is left to Ray.

    job_id: Ray's old name for submission_id; it is given both.
    """
    if not entrypoint[0].endswith(SUFFIXES) or not Path(entrypoint[0]).is_file() or any(others.values()):
        return
    from vlmgym.cli import main

    options = [
        *(["--address", address] if address else []),
        *(["--submission-id", submission_id] if submission_id else []),
        *(["--no-follow"] if no_wait else []),
    ]
    sys.stdout.flush()
    main(["submit", *options, "--", *entrypoint])
