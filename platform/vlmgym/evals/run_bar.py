"""Decides what shows that an evaluation moves: a bar over steps on a terminal, a line per policy elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlmgym.evals.log import Outcome


class RunBar:
    """The bar of one policy. A run that ends early counts as if it had made all its steps."""

    def __init__(self, progress: Progress, task: TaskID, num_runs: int, max_steps: int) -> None:
        self._progress = progress
        self._task = task
        self._num_runs = num_runs
        self._max_steps = max_steps
        self._num_ended = 0

    def advance(self, num_steps: int) -> None:
        self._progress.advance(self._task, num_steps)

    def end(self, outcome: Outcome) -> None:
        self._num_ended += 1
        self._progress.update(self._task, runs=f"{self._num_ended}/{self._num_runs} runs")
        self.advance(self._max_steps - outcome.num_steps)


@contextmanager
def run_bar(console: Console, name: str, num_runs: int, max_steps: int) -> Iterator[RunBar]:
    """The bar while the block runs."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[runs]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    if not console.is_terminal:
        console.print(f"{name}: {num_runs} runs", soft_wrap=True, markup=False)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=num_runs * max_steps, runs=f"0/{num_runs} runs")
        yield RunBar(progress, task, num_runs, max_steps)
