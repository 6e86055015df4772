"""Decides how forms of our docstrings that Markdown does not know are shown in the reference.

An extension of griffe (`extensions` in mkdocs.yml): the table at the head of a game's module, which has rows alone in
the code, and doctests.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

HEAD = ["| | |", "| --- | --- |"]
_DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\s*$).*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites docstrings as Markdown before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_fences(with_head(obj.docstring.value))


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


def with_fences(text: str) -> str:
    r"""Each doctest, up to the next empty line, as a block of code.

    >>> with_fences("Adds.\n\n>>> 1 + 1\n2\n\nMore.")
    'Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore.'
    """
    return _DOCTEST.sub(r"```pycon\n\1\n```", text)
