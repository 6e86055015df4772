"""Decides what a job file of an evaluation says: the options of `vlmgym eval`, under the key `evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmgym.job import JobError, JobFile
from vlmgym_envs.names import unknown_name

EVALUATE = "evaluate"
SET = "set"


def is_eval_file(path: str | Path) -> bool:
    """Errors: JobError where it is no job file at all."""
    return EVALUATE in JobFile.read(path).values


def read_eval_file(path: str | Path, options: Iterable[str]) -> dict[str, Any]:
    """What the file says, by option, as `max_tokens`; `set` as a list of KNOB=VALUE. options: those there are.

    Errors: JobError for a file without `evaluate`, with more than that, or with an unknown option.
    """
    document = JobFile.read(path)
    said = document.values.get(EVALUATE)
    if not isinstance(said, Mapping) or len(document.values) > 1 or document.profiles:
        raise JobError(
            f"{path}: a job file of an evaluation holds {EVALUATE}, with the options of `vlmgym eval`, alone"
        )
    known = sorted(options)
    for option in said:
        if option not in known:
            raise JobError(f"{path}: {EVALUATE}: {unknown_name('option', str(option), known)}")
    knobs = said.get(SET, {})
    if not isinstance(knobs, Mapping):
        raise JobError(f"{path}: {EVALUATE}.{SET} must map knobs to values, got {knobs!r}")
    return {**said, SET: [f"{knob}={value}" for knob, value in knobs.items()]}
