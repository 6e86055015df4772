"""Decides which curves show how a run came to see and to reason, game by game."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmgym.curves import COLD_START, GRPO, Panel, curve_points, draw_panel
from vlmgym.results.measured_run import MeasuredRun
from vlmgym.results.tables import PAID
from vlmgym_policies.insight import ERRORS

PANELS_PER_ROW = 4


def draw_figures(run: MeasuredRun, out: Path) -> dict[str, Path]:
    """Writes a figure per game of the run into `out`; returns them by their place."""
    figures: dict[str, Path] = {}
    for game in run.games:
        panels = [panel for panel in _panels(game.place, game.paid_rate) if _has_points(panel, run)]
        if panels:
            figures[game.place] = out / f"{run.name}-{game.place.replace('/', '-')}.svg"
            _draw(panels, run, figures[game.place])
    return figures


def _panels(place: str, paid_rate: str) -> Iterator[Panel]:
    """A row of the cold start, where only held-out boards are answered, and one of GRPO."""
    here, sampled, greedy = (f"{prefix}game/{place}/" for prefix in ("", "evaluation/sampled/", "evaluation/greedy/"))
    paid = {here: "training, sampled", sampled: "held out, sampled", greedy: "held out, greedy"}
    split = {here: "training", sampled: "held out, sampled"}
    perception = {"perception_board": "boards", "perception_cells": "cells"}
    reasoning = {"reasoning_given_perception": "board right", "reasoning_as_perceived": "as perceived"}
    for stage in (COLD_START, GRPO):
        yield Panel(PAID[paid_rate].capitalize(), stage, {f"{of}{paid_rate}": name for of, name in paid.items()}, True)
        for title, metrics in (("Perception", perception), ("Legal moves, by what was perceived", reasoning)):
            curves = {
                f"{of}{metric}": f"{called}, {name}" for metric, called in metrics.items() for of, name in split.items()
            }
            yield Panel(title, stage, curves, True)
        of = here if stage == GRPO else sampled
        yield Panel("Cells perceived wrong", stage, {f"{of}perception_error/{name}": name for name in ERRORS})


def _has_points(panel: Panel, run: MeasuredRun) -> bool:
    return any(curve_points(run.metrics, panel.stage, name)[0] for name in panel.curves)


def _draw(panels: list[Panel], run: MeasuredRun, picture: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    num_rows = -(-len(panels) // PANELS_PER_ROW)
    partial = picture.with_suffix(".partial.svg")
    # The same figure makes the same file, and texts stay texts.
    with matplotlib.rc_context({"svg.hashsalt": "vlmgym", "svg.fonttype": "none"}):
        figure: Any = Figure(figsize=(4.2 * min(PANELS_PER_ROW, len(panels)), 3.2 * num_rows), layout="constrained")
        for index, panel in enumerate(panels):
            draw_panel(figure.add_subplot(num_rows, min(PANELS_PER_ROW, len(panels)), index + 1), panel, run.metrics)
        figure.savefig(partial, format="svg", metadata={"Date": None})
    partial.replace(picture)
