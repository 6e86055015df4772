"""Decides what a page shows of a directory: that of a run, or that of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmgym.errors import BadInput
from vlmgym.evals.log import LOG_FILE, EvalLog, Summary, read_log
from vlmgym.metrics_file import METRICS_FILE, read_metrics
from vlmgym.run_dir import JOB_FILE
from vlmgym.tracking.group_record import GROUPS_FILE, ROLLOUTS_DIR, GroupRecord, read_groups
from vlmgym.viewer.evaluation import groups_of_runs


@dataclass(frozen=True)
class Source:
    """What a page is made of.

    settings: the job or the evaluation, as text. groups: in the order in which they are shown. picture(group, name):
    the PNG that a board of the group names. metrics: lines of metrics.jsonl. scores: policy -> score.
    """

    title: str
    settings: str
    groups: Sequence[GroupRecord]
    picture: Callable[[GroupRecord, str], bytes]
    metrics: Sequence[Mapping[str, Any]] = ()
    scores: Mapping[str, Summary] = field(default_factory=dict)


def read_source(path: Path, *, ask_solver: bool = True) -> Source:
    """Reads the directory of a run or of a finished evaluation.

    ask_solver: about every state of an evaluation; a run has asked it already.
    Errors: BadInput where the directory is neither, or is damaged.
    """
    name = path.resolve().name
    if (path / LOG_FILE).is_file():
        return _evaluation(read_log(path), name, ask_solver)
    if (path / JOB_FILE).is_file():
        return _run(path, name)
    raise BadInput(f"{path} is neither a run nor a finished evaluation: it has no {JOB_FILE} and no {LOG_FILE}")


def _run(path: Path, name: str) -> Source:
    groups: list[GroupRecord] = []
    folders: dict[tuple[str, int], Path] = {}
    for file in sorted((path / ROLLOUTS_DIR).glob(f"*/{GROUPS_FILE}")):
        for group in read_groups(file.parent):
            folders[group.stage, group.step] = file.parent
            groups.append(group)
    groups.sort(key=lambda group: (group.stage, group.step))

    def picture(group: GroupRecord, name: str) -> bytes:
        return (folders[group.stage, group.step] / name).read_bytes()

    settings = (path / JOB_FILE).read_text(encoding="utf-8")
    return Source(name, settings, groups, picture, read_metrics(path / METRICS_FILE))


def _evaluation(log: EvalLog, name: str, ask_solver: bool) -> Source:
    groups, pictures = groups_of_runs(log, ask_solver=ask_solver)
    return Source(
        title=name,
        settings=log.evaluation.model_dump_json(indent=2),
        groups=groups,
        picture=lambda group, name: pictures[name],
        scores={log.evaluation.policy.spec: log.summary, **log.ceilings},
    )
