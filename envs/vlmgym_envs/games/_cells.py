"""Decides how an action that names two cells of a grid is read, written and put into a Gymnasium space."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Game, InvalidAnswer
from vlmgym_envs.level import Level

Cell = tuple[int, int]
CellPair = tuple[Cell, Cell]

L = TypeVar("L", bound=Level)
S = TypeVar("S", bound=Hashable)

BRACKETS = ("()", "[]", "{}")
MAX_DIGITS = 6

_TWO_NUMBERS = r"[0-9]+(?:\s*,\s*|\s+)[0-9]+"
_ONE_PAIR = "|".join([_TWO_NUMBERS, *(rf"\{pair[0]}\s*{_TWO_NUMBERS}\s*\{pair[1]}" for pair in BRACKETS)])
_TWO_PAIRS = re.compile(rf"(?:{_ONE_PAIR})\s*[,;]?\s*(?:{_ONE_PAIR})")


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a board, (0, 0) at the top left; a cell's index is row * cols + col."""

    rows: int
    cols: int

    def parse(self, answer: str) -> CellPair:
        """Reads row1, col1, row2, col2: any spacing, commas or spaces, any or no brackets around the pairs.

        Strict where leniency could turn one move into another: anything but four whole numbers is refused.

        >>> Grid(6, 6).parse("[0,1] [2, 3]")
        ((0, 1), (2, 3))
        >>> Grid(6, 6).parse("(0, 1) (2, 6)")
        InvalidAnswer('col must be in 0..5, got 6')
        """
        text = answer.strip()
        words = re.findall(r"[^\s,;()\[\]{}]+", text)
        for word in words:
            if not re.fullmatch(r"[0-9]+", word):
                raise InvalidAnswer(f"expected only whole numbers, got {word[:20]!r}")
        if len(words) != 4:
            raise InvalidAnswer(f"expected four numbers, row1, col1, row2, col2, got {len(words)}")
        if not any(_TWO_PAIRS.fullmatch(form) for form in (text, _without_outer_brackets(text))):
            raise InvalidAnswer(f"expected (row1, col1) (row2, col2), got {text[:60]!r}")
        axes = (("row", self.rows), ("col", self.cols)) * 2
        for word, (axis, length) in zip(words, axes, strict=True):
            if len(word) > MAX_DIGITS or int(word) >= length:
                raise InvalidAnswer(f"{axis} must be in 0..{length - 1}, got {word[:20]}")
        return self.from_space(words)

    def format(self, pair: CellPair) -> str:
        """The inverse of `parse`: ((0, 1), (2, 3)) is "(0, 1) (2, 3)"."""
        return "{} {}".format(*pair)

    @property
    def space(self) -> gym.spaces.MultiDiscrete:
        """All ordered pairs of cells as [row1, col1, row2, col2]."""
        return gym.spaces.MultiDiscrete([self.rows, self.cols, self.rows, self.cols])

    def from_space(self, sample: Any) -> CellPair:
        row_1, col_1, row_2, col_2 = map(int, sample)
        return (row_1, col_1), (row_2, col_2)

    def to_space(self, pair: CellPair) -> NDArray[np.int64]:
        return np.array(pair, dtype=np.int64).reshape(4)

    def random_pair(self, rng: np.random.Generator) -> CellPair:
        """Uniform over all ordered pairs of cells, a cell with itself included."""
        return self.from_space(rng.integers([self.rows, self.cols, self.rows, self.cols]))

    def pair(self, first: int, second: int) -> CellPair:
        """The cells of two indices."""
        return divmod(first, self.cols), divmod(second, self.cols)

    def index(self, cell: Cell) -> int:
        return cell[0] * self.cols + cell[1]

    def __contains__(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.rows and 0 <= cell[1] < self.cols


class CellPairGame(Game[L, S, CellPair], Generic[L, S]):
    """A game whose actions are pairs of cells of `_grid`, which the game sets."""

    _grid: Grid

    def parse(self, answer: str) -> CellPair:
        return self._grid.parse(answer)

    def format_answer(self, action: CellPair) -> str:
        return self._grid.format(action)

    @property
    def action_space(self) -> gym.spaces.MultiDiscrete:
        return self._grid.space

    def from_space(self, sample: Any) -> CellPair:
        return self._grid.from_space(sample)

    def to_space(self, action: CellPair) -> NDArray[np.int64]:
        return self._grid.to_space(action)

    def random_action(self, rng: np.random.Generator) -> CellPair:
        return self._grid.random_pair(rng)


def _without_outer_brackets(text: str) -> str:
    """The text between brackets around both pairs, as in "((0, 1), (2, 3))"; other texts as they are."""
    return text[1:-1].strip() if text[:1] + text[-1:] in BRACKETS else text
