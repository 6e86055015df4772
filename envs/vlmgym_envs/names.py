"""Decides what a wrong name is answered with: an error that lists the known names and suggests the nearest."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a `name` that is none of the `known` ones; the caller raises it.

    >>> unknown_name("level", "papr", ["tiny", "paper"])
    ValueError("unknown level 'papr', did you mean 'paper'? Known: tiny, paper")
    """
    options = list(known)
    near = get_close_matches(str(name), options, n=1)
    hint = f", did you mean {near[0]!r}?" if near else "."
    return ValueError(f"unknown {what} {name!r}{hint} Known: {', '.join(options)}")
