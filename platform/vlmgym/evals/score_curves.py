"""Decides what curves.png shows of an evaluation: the score of each run, step by step, their mean and the ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmgym.evals.log import EvalLog, RunLog
from vlmgym.evals.protocol import ScoreRule, points


def draw_score_curves(log: EvalLog, picture: Path) -> None:
    """One thin line per run, the mean of the runs that did not fail, and a dashed line per ceiling."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    evaluation = log.evaluation
    done = [run for run in log.runs if run.error is None]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for run in done:
        curve = score_curve(run, evaluation.score)
        axes.plot(range(len(curve)), curve, color="tab:blue", linewidth=0.7, alpha=max(0.1, 0.6 / len(done) ** 0.4))
    if done:
        mean = mean_curve(done, evaluation.score)
        axes.plot(range(len(mean)), mean, color="tab:blue", linewidth=2.5, label=f"{evaluation.policy.spec}, mean")
    for number, (name, ceiling) in enumerate(log.ceilings.items()):
        if ceiling.score is not None:
            axes.axhline(ceiling.score.mean, color=f"C{number + 1}", linestyle="--", linewidth=1.2, label=name)
    axes.set_title(f"{evaluation.game}, {evaluation.level}: {len(done)} runs, protocol {evaluation.protocol}")
    axes.set_xlabel("step")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    if done or log.ceilings:
        axes.legend(fontsize=8)
    partial = picture.with_suffix(".partial.png")
    FigureCanvasAgg(figure).print_png(partial)
    partial.replace(picture)


def score_curve(run: RunLog, rule: ScoreRule) -> list[float]:
    """The score before the first step, 0, and after each."""
    return [0.0, *accumulate(points(rule, step.reward) for step in run.steps)]


def mean_curve(runs: Sequence[RunLog], rule: ScoreRule) -> NDArray[np.float64]:
    """Over all runs, up to the end of the longest; the score of a run that has ended stays."""
    curves = [score_curve(run, rule) for run in runs]
    longest = max(map(len, curves))
    return np.mean([curve + [curve[-1]] * (longest - len(curve)) for curve in curves], axis=0)
