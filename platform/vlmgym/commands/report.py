"""`vlmgym report`: what it takes, what it writes, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vlmgym.results.tables import ResultTable

WIDTH = 200
"""Characters per line where no terminal says."""


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the page and its figures.", show_default=False)],
    title: Annotated[str, typer.Option(help="Of the page.")] = "Results",
) -> None:
    """Writes what finished runs measured: tables with intervals, what GRPO changed, curves of seeing and reasoning.

    Runs of different jobs and one seed are compared with each other.
    """
    from rich.console import Console

    from vlmgym.results.measured_run import read_run
    from vlmgym.results.page import write_page
    from vlmgym.results.tables import tables

    read = [read_run(path) for path in runs]
    console = Console(highlight=False)
    for table in tables(read):
        _print(console, table)
    print(f"vlmgym: {write_page(read, out, title)}")


def _print(console: Console, table: ResultTable) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in table.head:
        shown.add_column(name)
    for row in table.rows:
        shown.add_row(*row)
    (console if console.is_terminal else Console(highlight=False, width=WIDTH)).print(shown)
    console.print()
