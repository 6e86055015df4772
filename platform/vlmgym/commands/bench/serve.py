"""`vlmgym bench serve`: what Ray Serve and HTTP cost on top of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vlmgym.benchmarks.serving import Figures


def serve(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Wall seconds per measurement.")] = 8.0,
    in_flight: Annotated[int, typer.Option(min=2, help="Requests at a time, for the throughput.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each kind; they take turns.")] = 3,
) -> None:
    """Requests to an engine alone and through Serve, whole and streamed: tokens per second with many in flight, and
    milliseconds that are added to one."""
    import os

    from rich.console import Console
    from rich.progress import Progress

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which is below
    from vlmgym.benchmarks.serving import Settings, measure

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        figures = measure(
            Settings(seconds, in_flight, repeats, "hf"),
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
    title = f"Engine {workload.engine}, {workload.num_in_flight} requests in flight: medians"
    throughput = _table(title, ("", "tokens/s", "range", "requests/s", "in flight", "latency ms"))
    for row in figures.throughput:
        spread = f"{row.tokens_per_s_min:,.0f}..{row.tokens_per_s_max:,.0f}"
        values = (f"{row.requests_per_s:.1f}", f"{row.requests_in_flight:.1f}", f"{row.latency_ms:,.0f}")
        throughput.add_row(row.kind, f"{row.tokens_per_s:,.0f}", spread, *values)
    latency = _table("One request at a time, ms", ("", "requests", "median", "95 %"))
    for one in figures.latency:
        latency.add_row(one.kind, str(one.num_requests), f"{one.median_ms:,.1f}", f"{one.p95_ms:,.1f}")
    added = _table("Added to each request, ms", ("", "requests", "median", "95 %", "medians of repeats"))
    for more in figures.added_latency:
        spread = f"{more.min_ms:.1f}..{more.max_ms:.1f}"
        added.add_row(more.kind, str(more.num_requests), f"{more.median_ms:.1f}", f"{more.p95_ms:.1f}", spread)
    ratios = _table("Ratios of the measurements of a repeat", ("", "of", "median", "range"))
    for ratio in figures.ratios:
        ratios.add_row(ratio.ratio, ratio.unit, f"{ratio.median:.2f}", f"{ratio.min:.2f}..{ratio.max:.2f}")
    for table in (throughput, latency, added, ratios):
        console.print(table)
        console.print()


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table
