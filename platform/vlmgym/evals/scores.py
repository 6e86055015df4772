"""Decides how evaluations are told: one table for a policy beside its ceilings and for policies side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from vlmgym.evals.log import Interval, Summary
from vlmgym.evals.report import PLAIN_WIDTH, Rate

NONE = "-"


def print_scores(console: Console, title: str, rows: Mapping[str, Summary]) -> None:
    """A row per policy; where intervals do not fit beside their means, below them."""
    _print(console, lambda separator: _score_table(title, rows, separator))


def print_insight(console: Console, rows: Mapping[str, Summary], unit: str) -> None:
    """Seeing and reasoning apart, a row per policy. unit: of regret."""
    _print(console, lambda separator: _insight_table(rows, unit, separator))


def _print(console: Console, make: Callable[[str], Table]) -> None:
    """make: the table with what stands between a mean and its interval."""
    if not console.is_terminal:
        console = Console(file=console.file, width=PLAIN_WIDTH)
    table = make(" ")
    fits = Measurement.get(console, console.options.update(width=10 * PLAIN_WIDTH), table).maximum <= console.width
    console.print(table if fits else make("\n"))


def shown_score(found: Interval) -> tuple[str, str]:
    """The mean and its interval: ("17.6", "[17.4, 17.8]"); a single run has none."""
    decimals = 1 if abs(found.mean) >= 10 else 2
    mean, low, high = (f"{value:.{decimals}f}" for value in (found.mean, found.low, found.high))
    return (mean, f"[{low}, {high}]") if found.n > 1 else (mean, "")


def _shown_share(found: Interval) -> tuple[str, str]:
    mean, bounds = Rate(found.mean, found.low, found.high, found.n).percentages
    return (mean, bounds) if found.n > 1 else (mean, "")


Column = tuple[str, Callable[[Summary], Interval | None]]
_SHARES: tuple[Column, ...] = (
    ("won %", lambda summary: summary.won),
    ("illegal\nanswers %", lambda summary: summary.illegal),
    ("format %", lambda summary: summary.well_formed),
    ("cells %", lambda summary: summary.cells),
    ("boards %", lambda summary: summary.boards),
)


_INSIGHT: tuple[Column, ...] = (
    ("boards %", lambda summary: summary.boards),
    ("legal, board right %", lambda summary: summary.reasoning),
    ("legal as perceived %", lambda summary: summary.as_perceived),
    ("best moves %", lambda summary: summary.best),
)


def _score_table(title: str, rows: Mapping[str, Summary], separator: str) -> Table:
    """Columns that no row has a value for are left out."""
    shares = _known(_SHARES, rows)
    table = _empty(title, ("score", *(name for name, _ in shares), "runs", "failed"))
    for label, summary in rows.items():
        score = NONE if summary.score is None else separator.join(shown_score(summary.score)).rstrip()
        cells = _cells(shares, summary, separator)
        table.add_row(label, score, *cells, str(summary.num_runs), str(summary.num_failed))
    return table


def _insight_table(rows: Mapping[str, Summary], unit: str, separator: str) -> Table:
    shares = _known(_INSIGHT, rows)
    table = _empty("Seeing and reasoning", (*(name for name, _ in shares), f"regret, {unit}"))
    for label, summary in rows.items():
        regret = NONE if summary.regret is None else separator.join(shown_score(summary.regret)).rstrip()
        table.add_row(label, *_cells(shares, summary, separator), regret)
    return table


def _known(columns: Sequence[Column], rows: Mapping[str, Summary]) -> list[Column]:
    """Those that some row has a value for."""
    return [(name, value) for name, value in columns if any(value(summary) for summary in rows.values())]


def _cells(columns: Sequence[Column], summary: Summary, separator: str) -> list[str]:
    found = [value(summary) for _, value in columns]
    return [NONE if share is None else separator.join(_shown_share(share)).rstrip() for share in found]


def _empty(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy", overflow="fold", min_width=10)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
