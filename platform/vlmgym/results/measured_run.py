"""Decides what is read of a finished run: its job, what it measured on held-out boards, and its curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlmgym.errors import BadInput
from vlmgym.evals.report import PolicyResult, Rate
from vlmgym.grpo.group_stats import level_key
from vlmgym.job import Job, load_job
from vlmgym.metrics_file import METRICS_FILE, read_metrics
from vlmgym.run import SUMMARY_FILE
from vlmgym.run_dir import JOB_FILE


class MeasuredGame(NamedTuple):
    """A game at a level. place: "GAME/LEVEL". paid_rate: the metric that says how often training would pay a move.

    policies: by their names in summary.json; `cold_start_best` is the best point for each way of decoding.
    """

    place: str
    paid_rate: str
    policies: Mapping[str, PolicyResult]

    def rate(self, policy: str, mode: str, metric: str = "") -> Rate | None:
        """By default of moves that are paid; None where it was not measured."""
        return self.policies.get(policy, {}).get(mode, {}).get(metric or self.paid_rate)

    @property
    def start(self) -> str:
        """What GRPO began from: the best point of the cold start, or the model as it was made."""
        return "cold_start_best" if "cold_start_best" in self.policies else "untrained"


class MeasuredRun(NamedTuple):
    """metrics: the lines of metrics.jsonl."""

    path: Path
    job: Job
    games: Sequence[MeasuredGame]
    metrics: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return self.job.run_name

    @property
    def minutes(self) -> float:
        """From the start to the last step, all restarts included."""
        return float(self.metrics[-1]["time_s"]) / 60 if self.metrics else 0.0

    def game(self, place: str) -> MeasuredGame | None:
        return next((game for game in self.games if game.place == place), None)


def read_run(path: Path) -> MeasuredRun:
    """Errors: BadInput for a directory that holds no run which went to its end."""
    for name in (JOB_FILE, SUMMARY_FILE):
        if not (path / name).is_file():
            raise BadInput(f"{path} holds no finished run: it has no {name}")
    job = load_job(path / JOB_FILE)
    summary = json.loads((path / SUMMARY_FILE).read_text(encoding="utf-8"))
    games = [
        MeasuredGame(place, paid_rate, {name: _result(stored) for name, stored in summary[place].items()})
        for place, paid_rate in _places(job)
    ]
    return MeasuredRun(path, job, games, read_metrics(path / METRICS_FILE))


def _places(job: Job) -> Iterator[tuple[str, str]]:
    for settings in job.mixture:
        for game in settings.evaluated():
            yield f"{game.id}/{level_key(game.level_name)}", settings.reward.paid_rate


def _result(stored: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> PolicyResult:
    return {mode: {name: Rate(**rate) for name, rate in rates.items()} for mode, rates in stored.items()}
