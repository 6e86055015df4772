"""Decides what the benchmark of rollouts says, in which units, and how it is made of single measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from vlmgym.benchmarks.rollouts_asking import Window
from vlmgym.benchmarks.rollouts_training import Update
from vlmgym.benchmarks.rollouts_workload import response_tokens


class WorkloadFigure(NamedTuple):
    """max_requests_in_flight: also the engine's largest batch. num_turns: of each branch, a request each."""

    engine: str
    max_requests_in_flight: int
    group_size: int
    num_turns: int


class RolloutFigure(NamedTuple):
    """Of all repeats: medians per second of wall-clock time and their range; sums of what was counted.

    tokens_per_cpu_s: per CPU second of the engine's process, a median too; None where an engine has further processes.
    requests_in_flight: their mean number. num_waves: how often all branches in flight ended a turn together, warm-up
    included; 0 without a barrier.
    """

    kind: str
    tokens_per_s: float
    tokens_per_s_min: float
    tokens_per_s_max: float
    groups_per_s: float
    groups_per_s_min: float
    groups_per_s_max: float
    tokens_per_cpu_s: float | None
    requests_in_flight: float
    num_tokens: int
    num_requests: int
    num_waves: int


class LengthFigure(NamedTuple):
    """Tokens of all responses of all repeats, warm-up included. num_not_as_drawn: that another length was drawn for."""

    kind: str
    num_requests: int
    mean: float
    median: float
    p95: float
    max: int
    num_not_as_drawn: int


class UpdateFigure(NamedTuple):
    """Training steps after the warm-up of one setting; medians, and the range of the whole.

    max_weights_lag: 0 is synchronous, 1 asynchronous.
    """

    max_weights_lag: int
    num_updates: int
    wall_s: float
    wall_s_min: float
    wall_s_max: float
    collect_s: float
    learn_s: float
    sync_s: float


class RatioFigure(NamedTuple):
    """Of `unit`, within each repeat: the median and the range over the repeats."""

    ratio: str
    unit: str
    median: float
    min: float
    max: float


class Figures(NamedTuple):
    """All that was measured. The names are the keys of the JSON form."""

    workload: list[WorkloadFigure]
    rollouts: list[RolloutFigure]
    lengths: list[LengthFigure]
    updates: list[UpdateFigure]
    ratios: list[RatioFigure]

    def as_json(self) -> str:
        """{"workload": [{"engine": "hf", ...}], "rollouts": [{"kind": "bare", ...}, {"kind": "actor", ...}], ...}"""
        return json.dumps({key: [row._asdict() for row in rows] for key, rows in self._asdict().items()}, indent=2)


def rollout_figure(kind: str, windows: Sequence[Window], *, in_one_process: bool) -> RolloutFigure:
    """Of one kind's measurements. in_one_process: whether the engine takes no CPU seconds in other processes."""
    tokens_per_s = [round(window.num_tokens / window.seconds, 1) for window in windows]
    groups_per_s = [round(window.num_groups / window.seconds, 3) for window in windows]
    return RolloutFigure(
        kind,
        tokens_per_s=median(tokens_per_s),
        tokens_per_s_min=min(tokens_per_s),
        tokens_per_s_max=max(tokens_per_s),
        groups_per_s=median(groups_per_s),
        groups_per_s_min=min(groups_per_s),
        groups_per_s_max=max(groups_per_s),
        tokens_per_cpu_s=round(median(w.num_tokens / w.engine_cpu_s for w in windows), 1) if in_one_process else None,
        requests_in_flight=round(median(window.requests_in_flight for window in windows), 1),
        num_tokens=sum(window.num_tokens for window in windows),
        num_requests=sum(len(window.counted) for window in windows),
        num_waves=sum(window.num_waves for window in windows),
    )


def length_figure(kind: str, windows: Sequence[Window]) -> LengthFigure:
    """Of one kind's measurements."""
    answers = [answer for window in windows for answer in window.answers]
    lengths = [answer.num_tokens for answer in answers]
    return LengthFigure(
        kind,
        len(lengths),
        round(float(np.mean(lengths)), 2),
        float(np.median(lengths)),
        float(np.percentile(lengths, 95)),
        max(lengths),
        num_not_as_drawn=sum(answer.num_tokens != response_tokens(answer.seed) for answer in answers),
    )


def ratio_figure(ratio: str, unit: str, numerators: Sequence[float], denominators: Sequence[float]) -> RatioFigure:
    """numerators, denominators: of the same repeats, in order."""
    ratios = [round(above / below, 3) for above, below in zip(numerators, denominators, strict=True)]
    return RatioFigure(ratio, unit, median(ratios), min(ratios), max(ratios))


def update_figure(max_weights_lag: int, repeats: Sequence[Sequence[Update]]) -> UpdateFigure:
    """Of all training steps of one setting."""
    updates = [update for repeat in repeats for update in repeat]
    walls = [update.wall_s for update in updates]
    wall_s, *parts = (round(median(column), 3) for column in zip(*updates, strict=True))
    return UpdateFigure(max_weights_lag, len(updates), wall_s, round(min(walls), 3), round(max(walls), 3), *parts)
