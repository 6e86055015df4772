"""Decides how an action that names two cells of a grid is read, written and put into a Gymnasium space."""

import re

import gymnasium as gym
import numpy as np

from vlmgym_envs.core import InvalidAnswer

Cell = tuple[int, int]
CellPair = tuple[Cell, Cell]

_NUMBERS = r"[0-9]+(?:\s*,\s*|\s+)[0-9]+"
_BRACKETED = "|".join(rf"\{left}\s*{_NUMBERS}\s*\{right}" for left, right in ("()", "[]", "{}"))
_TWO_PAIRS = re.compile(rf"(?:{_BRACKETED})\s*[,;]?\s*(?:{_BRACKETED})|{_NUMBERS}(?:\s*[,;]\s*|\s+){_NUMBERS}")
_AROUND_BOTH = ("()", "[]", "{}")
_MAX_DIGITS = 6


def parse_cell_pair(answer: str, rows: int, cols: int) -> CellPair:
    """Reads row1, col1, row2, col2: any spacing, commas or spaces, round, square, curly or no brackets around pairs.

    Strict where leniency could turn one move into another: anything but four whole numbers and separators is refused.

    >>> parse_cell_pair("[0,1] [2, 3]", rows=6, cols=6)
    ((0, 1), (2, 3))
    >>> parse_cell_pair("(0, 1) (2, 6)", rows=6, cols=6)
    InvalidAnswer('col must be in 0..5, got 6')
    """
    text = answer.strip()
    words = re.findall(r"[^\s,;()\[\]{}]+", text)
    for word in words:
        if not re.fullmatch(r"[0-9]+", word):
            raise InvalidAnswer(f"expected only whole numbers, got {word[:20]!r}")
    if len(words) != 4:
        raise InvalidAnswer(f"expected four numbers, row1, col1, row2, col2, got {len(words)}")
    if not _TWO_PAIRS.fullmatch(_without_outer_brackets(text)):
        raise InvalidAnswer(f"expected (row1, col1) (row2, col2), got {text[:60]!r}")
    for word, axis, length in zip(words, ("row", "col", "row", "col"), (rows, cols, rows, cols), strict=True):
        if len(word) > _MAX_DIGITS or int(word) >= length:
            raise InvalidAnswer(f"{axis} must be in 0..{length - 1}, got {word[:20]}")
    row_1, col_1, row_2, col_2 = map(int, words)
    return (row_1, col_1), (row_2, col_2)


def format_cell_pair(action: CellPair) -> str:
    """The inverse of `parse_cell_pair`: ((0, 1), (2, 3)) is "(0, 1) (2, 3)"."""
    return "{} {}".format(*action)


def cell_pair_space(rows: int, cols: int) -> gym.spaces.MultiDiscrete:
    """All pairs of cells as [row1, col1, row2, col2]."""
    return gym.spaces.MultiDiscrete([rows, cols, rows, cols])


def random_cell_pair(rng: np.random.Generator, rows: int, cols: int) -> CellPair:
    """Uniform over all ordered pairs of cells, a cell with itself included."""
    row_1, col_1, row_2, col_2 = rng.integers([rows, cols, rows, cols]).tolist()
    return (row_1, col_1), (row_2, col_2)


def _without_outer_brackets(text: str) -> str:
    """ "((0, 1), (2, 3))" without the brackets around both pairs; other texts as they are."""
    if text[:1] + text[-1:] in _AROUND_BOTH:
        inner = text[1:-1].strip()
        if _TWO_PAIRS.fullmatch(inner):
            return inner
    return text
