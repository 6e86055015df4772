"""Decides how tables are written in the pages that come from code."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table in Markdown, in which a cell's | does not end the cell.

    >>> print(markdown_table(["a", "b"], [["1|2", ""]]))
    | a | b |
    | --- | --- |
    | 1\|2 |  |
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
