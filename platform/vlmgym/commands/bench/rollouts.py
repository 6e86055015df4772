"""`vlmgym bench rollouts`: what the platform makes of an engine, and what sampling while learning brings."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vlmgym.benchmarks.rollouts_figures import Figures


class EngineType(StrEnum):
    hf = "hf"
    vllm = "vllm"


def rollouts(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    engine: Annotated[EngineType, typer.Option(help="The engine, with a tiny model.")] = EngineType.hf,
    seconds: Annotated[float, typer.Option(min=0.1, help="Wall seconds per measurement of rollouts.")] = 6.0,
    groups_in_flight: Annotated[int, typer.Option(min=1, help="Groups that are played at once.")] = 8,
    group_size: Annotated[int, typer.Option(min=2, help="Branches of a group.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each kind; they take turns.")] = 3,
    no_training: Annotated[bool, typer.Option("--no-training", help="Leave out the training steps.")] = False,
) -> None:
    """Rollouts with heavy-tailed lengths: tokens per second of an engine alone and of the platform around it, with and
    without a barrier per turn; and training steps that sample before they learn, or meanwhile."""
    import os

    from rich.console import Console
    from rich.progress import Progress

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which is below
    from vlmgym.benchmarks.rollouts import Settings, measure

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        figures = measure(
            Settings(seconds, groups_in_flight, group_size, repeats, engine.value, not no_training),
            lambda done, total, what: progress.update(task, completed=done, total=total, description=what),
        )
    if as_json:
        print(figures.as_json())
    else:
        _print_tables(figures)


def _print_tables(figures: Figures) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    (workload,) = figures.workload
    title = f"Rollouts, engine {workload.engine}, {workload.max_requests_in_flight} requests in flight: medians"
    rows = _table(title, ("", "tokens/s", "range", "groups/s", "tokens/CPU s", "in flight"))
    for row in figures.rollouts:
        spread = f"{row.tokens_per_s_min:,.0f}..{row.tokens_per_s_max:,.0f}"
        per_cpu_s = "" if row.tokens_per_cpu_s is None else f"{row.tokens_per_cpu_s:,.0f}"
        rates = (f"{row.tokens_per_s:,.0f}", spread, f"{row.groups_per_s:.2f}", per_cpu_s)
        rows.add_row(row.kind, *rates, f"{row.requests_in_flight:.1f}")
    lengths = _table("Tokens per response", ("", "mean", "median", "95 %", "max"))
    for length in figures.lengths:
        values = (length.mean, length.median, length.p95, length.max)
        lengths.add_row(length.kind, *(f"{value:.0f}" for value in values))
    updates = _table("A training step, wall seconds: medians", ("lag", "all", "range", "collect", "learn", "sync"))
    for step in figures.updates:
        parts = (f"{value:.2f}" for value in (step.collect_s, step.learn_s, step.sync_s))
        spread = f"{step.wall_s_min:.2f}..{step.wall_s_max:.2f}"
        updates.add_row(str(step.max_weights_lag), f"{step.wall_s:.2f}", spread, *parts)
    ratios = _table("Ratios of the measurements of a repeat", ("", "of", "median", "range"))
    for ratio in figures.ratios:
        ratios.add_row(ratio.ratio, ratio.unit, f"{ratio.median:.2f}", f"{ratio.min:.2f}..{ratio.max:.2f}")
    for table in (rows, lengths, updates, ratios):
        if table.row_count:
            console.print(table)
            console.print()


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table
