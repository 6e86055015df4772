"""Decides how an action that is one of four directions is read, written and put into a Gymnasium space."""

from collections.abc import Hashable
from functools import cache
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np

from vlmgym_envs.core import Game, InvalidAnswer
from vlmgym_envs.level import Level

DIRECTIONS = ("up", "right", "down", "left")
"""Their numbers, 0 to 3, are the actions."""

STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""What each direction adds to (row, col)."""

BRACKETS = ("()", "[]", "{}", '""', "''", "``")

L = TypeVar("L", bound=Level)
S = TypeVar("S", bound=Hashable)


class DirectionGame(Game[L, S, int], Generic[L, S]):
    """A game whose actions are 0 up, 1 right, 2 down, 3 left."""

    def parse(self, answer: str) -> int:
        return parse_direction(answer)

    def format_answer(self, action: int) -> str:
        return DIRECTIONS[action]

    @property
    def action_space(self) -> gym.spaces.Discrete[np.int64]:
        return gym.spaces.Discrete(len(DIRECTIONS))

    def from_space(self, sample: Any) -> int:
        return int(sample)

    def to_space(self, action: int) -> np.int64:
        return np.int64(action)

    def random_action(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(DIRECTIONS)))


def parse_direction(answer: str) -> int:
    """Reads one direction as a word in any case or as its number; brackets, quotes and a full stop may surround it.

    Strict where leniency could turn one move into another: any other word or number beside it is refused.

    >>> parse_direction("[2]"), parse_direction("Left.")
    (2, 3)
    >>> parse_direction("left or up")
    InvalidAnswer("expected one direction, up, right, down, left or 0..3, got 'left or up'")
    """
    text = answer.strip()
    inner = _unwrapped(text)
    while inner != text:
        text, inner = inner, _unwrapped(inner)
    names = (*DIRECTIONS, *map(str, range(len(DIRECTIONS))))
    if text.lower() not in names:
        raise InvalidAnswer(f"expected one direction, {', '.join(DIRECTIONS)} or 0..3, got {answer.strip()[:40]!r}")
    return names.index(text.lower()) % len(DIRECTIONS)


def _unwrapped(text: str) -> str:
    """Without a full stop at the end or, where there is none, one pair of brackets or quotes around all of it."""
    if text.endswith("."):
        return text[:-1].strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in BRACKETS else text


@cache
def neighbours(rows: int, cols: int) -> tuple[tuple[int | None, ...], ...]:
    """For each cell, row * cols + col, the cell next to it in each direction, None off the board."""
    return tuple(
        tuple(
            (row + down) * cols + col + right if 0 <= row + down < rows and 0 <= col + right < cols else None
            for down, right in STEPS
        )
        for row in range(rows)
        for col in range(cols)
    )
