"""Decides how the table at the head of a game's module is shown in the reference: as a table of Markdown.

An extension of griffe (`extensions` in mkdocs.yml). In the code such a table has rows alone.
"""

from __future__ import annotations

from typing import Any

import griffe

HEAD = ["| | |", "| --- | --- |"]


class HeaderTables(griffe.Extension):
    """Puts the head that Markdown asks for above the rows of a module's docstring."""

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        if mod.docstring is not None:
            mod.docstring.value = with_head(mod.docstring.value)


def with_head(text: str) -> str:
    r"""Closes rows that are left open, and puts a head above the first of each table that has none.

    >>> with_head("Go.\n\n| State | a board\n| Ends  | never |").splitlines()[2:]
    ['| | |', '| --- | --- |', '| State | a board |', '| Ends  | never |']
    """
    lines: list[str] = []
    for line in text.splitlines():
        is_row = line.startswith("| ")
        if is_row and not (lines and lines[-1].startswith("|")):
            lines += HEAD
        lines.append(f"{line.rstrip()} |" if is_row and not line.rstrip().endswith("|") else line)
    return "\n".join(lines)
