"""Decides how finished runs are written down: one page of Markdown with its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmgym.markdown import markdown_table
from vlmgym.results.figures import draw_figures
from vlmgym.results.measured_run import MeasuredRun
from vlmgym.results.tables import tables

PAGE = "README.md"
_METHOD = """\
Shares have Wilson's 95% interval. Differences are those of two independent shares (Newcombe 1998, method 10): all
policies of a run answer the same boards, but what became of each board is not kept, so where right answers go together
the true interval is narrower. "Best" is the best point of the cold start for that way of decoding, the strictest
comparison. No correction is made for the number of comparisons.
"""


def write_page(runs: Sequence[MeasuredRun], out: Path, title: str) -> Path:
    """Writes the page and its figures into the folder `out`; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}", f"Written by `vlmgym report {' '.join(str(run.path) for run in runs)}`.", _METHOD.strip()]
    for table in tables(runs):
        parts += [f"{table.title}:", markdown_table(table.head, table.rows)]
    parts += ["## Curves"]
    for run in runs:
        for place, figure in draw_figures(run, out).items():
            parts += [f"{run.name}, {place}:", f"![Curves of {run.name} on {place}]({figure.name})"]
    path = out / PAGE
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
