"""`vlmgym bench learner`: what the platform's update costs beside a bare PyTorch loop and TRL's trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vlmgym.benchmarks.learner_figures import Figures


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def learner(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    device: Annotated[Device, typer.Option(help="Where all learn: float32 on cpu, bfloat16 on cuda.")] = Device.cpu,
    model: Annotated[
        str, typer.Option(help="A model directory or hub name; `tiny` is that of the demonstration.")
    ] = "tiny",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads of each contender.  [default: all cores]", show_default=False)
    ] = 0,
    groups: Annotated[int, typer.Option(min=1, help="Groups per training step.")] = 32,
    group_size: Annotated[int, typer.Option(min=2, help="Responses of a group.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a contender in each repeat.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats; in each the contenders take turns.")] = 5,
    no_trl: Annotated[bool, typer.Option("--no-trl", help="Leave out TRL.")] = False,
) -> None:
    """Training steps on the same sequences: tokens per second and peak memory of the platform's learner, of a bare
    PyTorch loop, and of TRL's GRPOTrainer, each in a process of its own."""
    from rich.console import Console
    from rich.progress import Progress

    num_threads = threads or len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))  # read when torch is imported, which is below
    from vlmgym.benchmarks.learner import Settings, measure
    from vlmgym.benchmarks.learner_trl import check_trl
    from vlmgym.errors import BadInput

    if not no_trl:
        try:
            check_trl()
        except ImportError as error:
            raise BadInput(f"{error}; or leave it out with --no-trl") from error
    contenders = ("platform", "bare") if no_trl else ("platform", "bare", "trl")
    settings = Settings(model, device.value, num_threads, groups, group_size, steps, repeats, contenders)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        figures = measure(
            settings,
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
    place = f"{workload.device}, {workload.dtype}, {workload.num_threads} threads"
    title = f"A training step of {workload.num_sequences} sequences, {workload.num_tokens:,} tokens, {place}"
    rows = _table(title, ("", "tokens/s", "range", "tokens/CPU s", "peak MiB", "MFU", "padding"))
    for row in figures.learners:
        spread = f"{row.tokens_per_s_min:,.0f}..{row.tokens_per_s_max:,.0f}"
        padding = "" if row.padding_fraction is None else f"{row.padding_fraction:.1%}"
        per_cpu_s = "" if row.tokens_per_cpu_s is None else f"{row.tokens_per_cpu_s:,.0f}"
        rates = (f"{row.tokens_per_s:,.0f}", spread, per_cpu_s)
        rows.add_row(row.contender, *rates, f"{row.peak_mib:,.1f}", f"{row.mfu:.1%}", padding)
    ratios = _table("Ratios of a repeat", ("", "of", "median", "range"))
    for ratio in figures.ratios:
        ratios.add_row(ratio.ratio, ratio.unit, f"{ratio.median:.2f}", f"{ratio.min:.2f}..{ratio.max:.2f}")
    for table in (rows, ratios):
        console.print(table)
        console.print()


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table
