"""`vlmgym bench envs`: how fast games are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vlmgym.benchmarks.envs import Figures


def envs(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    games: Annotated[str, typer.Option(metavar="ID,ID", help="Games.  [default: all]", show_default=False)] = "",
    levels: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME", help="Levels.  [default: paper, large and all larger boards]", show_default=False
        ),
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.01, help="CPU seconds per figure of steps.")] = 1.0,
) -> None:
    """Games: steps per CPU second, and the CPU seconds that a training step of 128 states x 5 answers needs."""
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")  # read when numpy is imported, which is below

    from rich.console import Console
    from rich.progress import Progress

    from vlmgym.benchmarks.envs import levels_to_measure, measure
    from vlmgym.errors import BadInput

    try:
        pairs = levels_to_measure(_names(games), _names(levels))
    except ValueError as error:
        raise BadInput(str(error)) from error
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        figures = measure(
            pairs,
            seconds,
            lambda done, total, what: progress.update(task, completed=done, total=total, description=what),
        )
    if as_json:
        print(figures.as_json())
    else:
        _print_tables(figures)


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _print_tables(figures: Figures) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    steps = _table("Steps per CPU second", ("envs", "pictures", "any action", "legal actions"))
    for row, legal in zip(figures.step, figures.legal_step, strict=True):
        rates = (f"{figure.env_steps_per_cpu_s:,.0f}" for figure in (row, legal))
        steps.add_row(row.game, row.level, str(row.num_envs), "yes" if row.pictures else "no", *rates)
    console.print(steps)
    console.print()
    columns = ("states", "draw", "pictures", "score", "sum", "extra: PNG")
    seconds = _table("A training step, CPU seconds (states x answers)", columns)
    for whole, parts in zip(figures.training_step, figures.training_step_parts, strict=True):
        measured = (parts.draw_cpu_s, parts.picture_cpu_s, parts.score_cpu_s, whole.cpu_s, parts.png_cpu_s)
        cells = (f"{value:.3f}" for value in measured)
        seconds.add_row(whole.game, whole.level, f"{whole.states} x {whole.answers}", *cells)
    console.print(seconds)


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("game", "level"):
        table.add_column(column, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table
