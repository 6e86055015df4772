"""Decides how facts become sentences: one of several templates, drawn by chance, with the facts filled in."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_envs.games._directions import DIRECTIONS, STEPS

Templates: TypeAlias = tuple[str, ...]
Cell: TypeAlias = tuple[int, int]

REFUSED: Templates = (
    "The rules refuse {move}: {reason}.",
    "{move} is not allowed, since {reason}.",
)


def say(rng: np.random.Generator, templates: Templates, **facts: object) -> str:
    """One of the templates, each as likely as the others. Every template names all facts.

    >>> say(rng, ("{tile} is at {cell}.", "At {cell} is {tile}."), tile="bird", cell=(0, 1))
    'At (0, 1) is bird.'
    """
    return templates[int(rng.integers(len(templates)))].format_map(facts)


def join(parts: Sequence[object]) -> str:
    """
    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = map(str, parts)
    return f"{', '.join(most)} and {last}" if most else last


def count(number: int, noun: str) -> str:
    """
    >>> count(1, "turn"), count(2, "turn")
    ('1 turn', '2 turns')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def beside(cell: Cell, direction: int) -> Cell:
    """The cell next to one, on the board or off it."""
    down, right = STEPS[direction]
    return cell[0] + down, cell[1] + right


def refusal(game: Game[Any, Any, Any], state: Any, action: Any, rng: np.random.Generator) -> str | None:
    """What there is to say of a move that the rules refuse; None for a legal one."""
    reason = game.step(state, action).refused
    if reason is None:
        return None
    named = DIRECTIONS[action] if isinstance(action, int) else game.format_answer(action)
    return say(rng, REFUSED, move=named, reason=reason)
