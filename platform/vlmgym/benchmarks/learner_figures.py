"""Decides what the benchmark of the learner says, in which units, and how it is made of single training steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from vlmgym.benchmarks.learner_stopwatch import Step
from vlmgym.benchmarks.rollouts_figures import RatioFigure, ratio_figure

MIB = 2**20


class WorkloadFigure(NamedTuple):
    """num_tokens: of prompts and responses of one training step, padding not counted; of the first one."""

    model: str
    device: str
    dtype: str
    num_threads: int
    num_params: int
    num_sequences: int
    num_tokens: int
    matmul_tflops: float


class LearnerFigure(NamedTuple):
    """Of one contender: medians over all training steps after the warm-up, and their range.

    peak_mib: the most memory above what there was before the first step; optimizer state is in it, weights are not.
    tokens_per_cpu_s: per CPU second of the process, all threads together; None on a GPU.
    mfu: FLOPs that the model needs over those that a matrix product of this device does in the time. padding_fraction:
    of the tokens computed; None where a contender does not say.
    """

    contender: str
    num_steps: int
    tokens_per_s: float
    tokens_per_s_min: float
    tokens_per_s_max: float
    tokens_per_cpu_s: float | None
    peak_mib: float
    mfu: float
    padding_fraction: float | None


class Figures(NamedTuple):
    """All that was measured. The names are the keys of the JSON form."""

    workload: list[WorkloadFigure]
    learners: list[LearnerFigure]
    ratios: list[RatioFigure]

    def as_json(self) -> str:
        """{"workload": [{"model": "tiny", ...}], "learners": [{"contender": "platform", ...}, ...], "ratios": [...]}"""
        return json.dumps({key: [row._asdict() for row in rows] for key, rows in self._asdict().items()}, indent=2)


class Work(NamedTuple):
    """What one training step has to do. flops: of the model's products, each distinct picture seen once."""

    num_tokens: int
    flops: float


def learner_figure(
    contender: str, steps: Sequence[Step], work: Sequence[Work], matmul_tflops: float, *, on_cpu: bool
) -> LearnerFigure:
    """work: of the same steps."""
    tokens_per_cpu_s = None
    if on_cpu:
        tokens_per_cpu_s = round(median(w.num_tokens / step.cpu_s for step, w in zip(steps, work, strict=True)), 1)
    rates = [round(done.num_tokens / step.seconds, 1) for step, done in zip(steps, work, strict=True)]
    share = [done.flops / step.seconds / (matmul_tflops * 1e12) for step, done in zip(steps, work, strict=True)]
    paddings = [step.padding_fraction for step in steps if step.padding_fraction is not None]
    return LearnerFigure(
        contender,
        len(steps),
        tokens_per_s=median(rates),
        tokens_per_s_min=min(rates),
        tokens_per_s_max=max(rates),
        tokens_per_cpu_s=tokens_per_cpu_s,
        peak_mib=round(max(step.peak_bytes for step in steps) / MIB, 1),
        mfu=round(median(share), 4),
        padding_fraction=round(max(paddings), 4) if paddings else None,
    )


def ratios_to(
    first: Sequence[Sequence[Step]], others: dict[str, Sequence[Sequence[Step]]], *, on_cpu: bool
) -> list[RatioFigure]:
    """Of the platform to each other: speed, within each repeat, and peak memory, of the whole.

    first, others: steps by repeat, at least one in each.
    """
    seconds: dict[str, Callable[[Step], float]] = {"tokens_per_s": lambda step: step.seconds}
    if on_cpu:
        seconds["tokens_per_cpu_s"] = lambda step: step.cpu_s
    figures = []
    for unit, seconds_of in seconds.items():
        ours = [sum(map(seconds_of, repeat)) for repeat in first]
        for name, steps in others.items():
            theirs = [sum(map(seconds_of, repeat)) for repeat in steps]
            figures.append(ratio_figure(f"platform / {name}", unit, theirs, ours))
    for name, steps in others.items():
        peaks = [max(step.peak_bytes for repeat in contender for step in repeat) for contender in (first, steps)]
        figures.append(ratio_figure(f"platform / {name}", "peak_mib", peaks[:1], peaks[1:]))
    return figures
