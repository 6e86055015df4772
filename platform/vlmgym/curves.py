"""Decides what curves.png shows of a run: legal moves, rewards, perception, reasoning, KL and entropy by stage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlmgym.metrics_file import read_metrics
from vlmgym_policies.insight import ERRORS

COLD_START = "cold_start"
GRPO = "grpo"
_AXIS = {COLD_START: "cold start: update", GRPO: "GRPO: iteration"}


class Panel(NamedTuple):
    """One set of axes. curves: metric -> label."""

    title: str
    stage: str
    curves: Mapping[str, str]
    is_rate: bool = False


_LEGAL = {
    "legal_move_rate": "training, sampled",
    "evaluation/sampled/legal_move_rate": "held out, sampled",
    "evaluation/greedy/legal_move_rate": "held out, greedy",
}
_PERCEPTION = {
    "perception_board": "boards, training",
    "perception_cells": "cells, training",
    "evaluation/sampled/perception_board": "boards, held out",
    "evaluation/sampled/perception_cells": "cells, held out",
}
_REASONING = {
    "reasoning_given_perception": "board right, training",
    "reasoning_as_perceived": "as perceived, training",
    "evaluation/sampled/reasoning_given_perception": "board right, held out",
    "evaluation/sampled/reasoning_as_perceived": "as perceived, held out",
}
_BEST = {
    "best_move_rate": "training, sampled",
    "evaluation/sampled/best_move_rate": "held out, sampled",
    "evaluation/greedy/best_move_rate": "held out, greedy",
}
_ERRORS = {f"perception_error/{name}": name for name in ERRORS}
_PROGRESS = re.compile(r"evaluation/(?P<mode>\w+)/game/(?P<place>[^/]+/[^/]+)/progress_rate")
PANELS = (
    Panel("Legal moves", COLD_START, _LEGAL, is_rate=True),
    Panel("Legal moves", GRPO, _LEGAL, is_rate=True),
    Panel("Reward", GRPO, {"reward": "total", "game_reward": "game", "format_rate": "format"}),
    Panel("KL to the start model", GRPO, {"kl": "k3"}),
    Panel("Perception", COLD_START, _PERCEPTION, is_rate=True),
    Panel("Perception", GRPO, _PERCEPTION, is_rate=True),
    Panel("Cells perceived wrong", GRPO, _ERRORS),
    Panel("Legal moves, by what was perceived", GRPO, _REASONING, is_rate=True),
    Panel("Moves as good as the solver's", GRPO, _BEST, is_rate=True),
    Panel("Entropy", GRPO, {"entropy": "per token"}),
    Panel("Loss", COLD_START, {"loss": "per token"}),
)


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draws the curves of a metrics file; nothing while no panel has a point."""
    lines = read_metrics(metrics)
    panels = [
        panel
        for panel in (*PANELS, *_of_games(lines))
        if any(curve_points(lines, panel.stage, name)[0] for name in panel.curves)
    ]
    if not panels:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = -(-len(panels) // 4)
    figure = Figure(figsize=(4.2 * min(4, len(panels)), 3.2 * num_rows), layout="constrained")
    for index, panel in enumerate(panels):
        draw_panel(figure.add_subplot(num_rows, min(4, len(panels)), index + 1), panel, lines)
    partial = picture.with_suffix(".partial.png")
    FigureCanvasAgg(figure).print_png(partial)
    partial.replace(picture)


def _of_games(lines: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """Where there are several games, or levels of one: how often each rewards a move, by stage and way of decoding."""
    found = {name: each for line in lines for name in line if (each := _PROGRESS.fullmatch(name))}
    for mode in sorted({each["mode"] for each in found.values()}):
        curves = {name: each["place"] for name, each in sorted(found.items()) if each["mode"] == mode}
        if len(curves) > 1:
            for stage in (COLD_START, GRPO):
                yield Panel(f"Moves that a game rewards, {mode}", stage, curves, is_rate=True)


def curve_points(lines: Sequence[Mapping[str, Any]], stage: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric in a stage, where it is finite."""
    points = [(line["step"], line[metric]) for line in lines if line["stage"] == stage and line.get(metric) is not None]
    return [step for step, _ in points], [value for _, value in points]


def draw_panel(axes: Any, panel: Panel, lines: Sequence[Mapping[str, Any]]) -> None:
    """Training as lines, held-out evaluations with a mark at each."""
    for metric, label in panel.curves.items():
        steps, values = curve_points(lines, panel.stage, metric)
        if steps:
            is_evaluation = metric.startswith("evaluation/")
            style = {"marker": "o", "markersize": 3.5} if is_evaluation else {"linewidth": 1.2, "alpha": 0.8}
            axes.plot(steps, values, label=label, **style)
    axes.set_title(panel.title)
    axes.set_xlabel(_AXIS[panel.stage])
    if panel.is_rate:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
