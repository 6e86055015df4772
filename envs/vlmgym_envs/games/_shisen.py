"""Decides the rules of Shisen-Sho, whatever its tiles look like.

| State  | board, bytes [rows * cols]: 0 empty, else the kind of tile from 1; num_moves, pairs removed so far |
| Action | ((row1, col1), (row2, col2)), counted from (0, 0) at the top left; the order of the two does not matter |
| Reward | 1.0 for a removed pair, so a game's sum is the number of pairs removed |
| Ends   | when no legal action is left: info["cleared"] says whether the board is empty or the player is stuck |
| Solver | first move of an order that clears the board, or of the longest one found within the bounds of _clearing.py |
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Step, Teacher
from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._cells import CellPair, CellPairGame, Grid
from vlmgym_envs.games._clearing import clearable_deal, clearing_order, without
from vlmgym_envs.games._paths import MAX_TURNS, Paths, equal_pairs
from vlmgym_envs.games._tiles import NamedTiles
from vlmgym_envs.level import BoardLevel, choice, knob
from vlmgym_envs.reasons.shisen import reason

MAX_DEALS = 1_000
MAX_RANDOM_GAMES = 20

_PATHS = ("straight path", "path of at most one turn", "path of at most two turns")
_PATH_RULES = ("and does not turn", "and turns at most once", "and turns at most twice")


@dataclass(frozen=True, slots=True)
class ShisenLevel(BoardLevel):
    """Perception: the knobs of `BoardLevel`. Reasoning: rows, cols, copies, turns, solvable.

    copies: tiles of each kind that is dealt. turns: the largest number of turns of a path.
    """

    rows: int = knob(6, 2, 16)
    cols: int = knob(6, 2, 16)
    copies: int = choice(4, (2, 4, 6, 8, 12, 16))
    turns: int = knob(MAX_TURNS, 0, MAX_TURNS)
    solvable: bool = choice(True, (True, False))

    def check(self) -> None:
        if self.rows * self.cols % self.copies:
            raise ValueError(
                f"rows * cols must be divisible by copies, got {self.rows} * {self.cols} and {self.copies}"
            )

    @property
    def num_kinds_dealt(self) -> int:
        return self.rows * self.cols // self.copies


@dataclass(frozen=True, slots=True)
class ShisenShoState:
    """See the table of this module."""

    board: bytes
    num_moves: int


L = TypeVar("L", bound=ShisenLevel)


class ShisenGame(CellPairGame[L, ShisenShoState]):
    """The table of this module says what each method works with.

    tiles: the kinds, at least as many as are dealt. painter: draws what `_sprites` says.
    """

    value_unit = "pairs"

    def __init__(self, level: L, level_name: str, tiles: NamedTiles, painter: BoardPainter) -> None:
        super().__init__(level, level_name)
        self._grid = Grid(level.rows, level.cols)
        self._tiles = tiles
        self._painter = painter

    @property
    @abstractmethod
    def _kind_lines(self) -> tuple[str, ...]:
        """What the prompt says about the kinds of tiles, one statement per line."""

    @property
    @abstractmethod
    def _equality(self) -> str:
        """What two tiles that match are said to be: "of the same color and shape"."""

    def _sprites(self, board: NDArray[np.uint8]) -> NDArray[np.integer]:
        """Which sprite of the painter each cell shows, [rows, cols]; here its tile. board: [rows, cols]."""
        return board

    def init(self, seed: int) -> ShisenShoState:
        """Kinds chosen uniformly without repetition, `copies` tiles of each, shuffled.

        solvable: shuffled by `clearable_deal`, else uniformly, again where no action is legal.
        """
        return ShisenShoState(self._deal(np.random.default_rng(seed)), 0)

    def mid_game(self, seed: int) -> ShisenShoState:
        """The number of removed pairs is uniform on 0..pairs-1; each is a uniformly random legal move on a fresh deal.

        A game that is stuck before or at that point is played again from a new deal with the same number. Where
        MAX_RANDOM_GAMES games were stuck, as happens on large boards with few turns, the solver plays the next ones.
        """
        level = self.level
        rng = np.random.default_rng(seed)
        num_removed = int(rng.integers(level.rows * level.cols // 2))
        for number in range(MAX_DEALS):
            play = self._after_random_moves if number < MAX_RANDOM_GAMES else self._after_solver_moves
            board = play(self._deal(rng), num_removed, rng)
            if board and self._paths(board).any_pair():
                return ShisenShoState(board, num_removed)
        raise ValueError(f"{MAX_DEALS} games at {level} were stuck before {num_removed} moves")

    def legal_actions(self, state: ShisenShoState) -> list[CellPair]:
        """In reading order, the first cell of each pair before the second."""
        return [self._grid.pair(*pair) for pair in self._paths(state.board).pairs()]

    def step(self, state: ShisenShoState, action: CellPair) -> Step[ShisenShoState]:
        reason = self._refusal(state, action)
        if reason is not None:
            return Step(state, 0.0, False, {"refused": reason})
        board = without(state.board, [(self._grid.index(action[0]), self._grid.index(action[1]))])
        info = {"cleared": not any(board)}
        return Step(ShisenShoState(board, state.num_moves + 1), 1.0, not self._paths(board).any_pair(), info)

    def render(self, state: ShisenShoState) -> NDArray[np.uint8]:
        board = np.frombuffer(state.board, dtype=np.uint8).reshape(self.level.rows, self.level.cols)
        return self._painter.paint(self._sprites(board))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._painter.image_shape

    def describe(self, state: ShisenShoState) -> str:
        """The names of the tiles, as in " Red circle ", and " - ", joined by "|", rows joined by newlines."""
        return self._tiles.write(state.board, self.level.cols)

    def from_text(self, text: str) -> ShisenShoState:
        return ShisenShoState(self._tiles.read(self.cells(text), self.level.rows, self.level.cols), 0)

    def cell_parts(self, cell: str) -> tuple[str, ...] | None:
        return self._tiles.parts(cell)

    def solve(self, state: ShisenShoState) -> CellPair | None:
        order = self._order(state.board)
        return self._grid.pair(*order[0]) if order else None

    def value(self, state: ShisenShoState, action: CellPair | None) -> float:
        """The pairs that this and the solver's moves after it remove; a refused answer removes one less than all."""
        if action is None:
            return len(self._order(state.board)) - 1.0
        return 1.0 + len(self._order(self.step(state, action).state.board))

    def explain(self, state: ShisenShoState, action: CellPair) -> str:
        """What stands on the two cells: " Red circle (0, 0) Red circle (1, 2)"."""
        return "".join(f" {self._tiles.name(state.board[self._grid.index(cell)])} {cell}" for cell in action)

    def reason(self, state: ShisenShoState, action: CellPair, rng: np.random.Generator) -> str:
        return reason(self, state, action, rng)

    @property
    def prompt(self) -> str:
        level = self.level
        # With fewer turns, the way around the outside leads back to the cell it came from.
        outside = ("It may also run around the outside of the board, one cell away from its edge.",)
        return "\n".join(
            (
                f"The picture shows a Shisen-Sho board with {level.rows} rows and {level.cols} columns.",
                f"A move removes two tiles {self._equality} that a path connects.",
                f"The path runs along rows and columns through empty cells {_PATH_RULES[level.turns]}.",
                *(outside if level.turns == MAX_TURNS else ()),
                "Cells are named (row, column); the top left cell is (0, 0).",
                *self._kind_lines,
                "First write down the board, one line per row, cells separated by |.",
                f'A tile is written as " {self._tiles.name(1)} ", an empty cell as " - ".',
                "Then reason about which two tiles to remove.",
                "Then answer with their cells. Use exactly this form:",
                "<perception>board</perception><think>reasoning</think><answer>(row1, col1) (row2, col2)</answer>",
            )
        )

    @property
    def teachers(self) -> Mapping[str, Teacher[ShisenShoState, CellPair]]:
        """Adds path_blind, uniform over the pairs of equal tiles, and any_tiles, uniform over the pairs of tiles.

        Neither looks at paths; both name the pair in reading order.
        """
        return {**super().teachers, "path_blind": self._path_blind, "any_tiles": self._any_tiles}

    def _path_blind(self, state: ShisenShoState, rng: np.random.Generator) -> CellPair:
        pairs = equal_pairs(state.board)
        return self._playable(state, self._grid.pair(*pairs[int(rng.integers(len(pairs)))]) if pairs else None)

    def _any_tiles(self, state: ShisenShoState, rng: np.random.Generator) -> CellPair:
        places = [index for index, tile in enumerate(state.board) if tile]
        if len(places) < 2:
            return self._playable(state, None)
        first, second = sorted(rng.choice(places, size=2, replace=False).tolist())
        return self._grid.pair(first, second)

    def _refusal(self, state: ShisenShoState, action: CellPair) -> str | None:
        """Why the rules refuse an action; None for a legal one."""
        level = self.level
        for cell in action:
            if cell not in self._grid:
                return f"cell {cell} is outside rows 0..{level.rows - 1}, cols 0..{level.cols - 1}"
        first, second = (self._grid.index(cell) for cell in action)
        if first == second:
            return f"the two cells must differ, got {action[0]} twice"
        for cell, index in zip(action, (first, second), strict=True):
            if not state.board[index]:
                return f"cell {cell} is empty"
        if state.board[first] != state.board[second]:
            names = [self._tiles.name(state.board[index]) for index in (first, second)]
            return f"the tiles must be equal, got {names[0]} and {names[1]}"
        if not self._paths(state.board).connects(first, second):
            return f"no {_PATHS[level.turns]} connects {action[0]} and {action[1]}"
        return None

    def _deal(self, rng: np.random.Generator) -> bytes:
        level = self.level
        kinds = 1 + rng.choice(self._tiles.num_kinds, size=level.num_kinds_dealt, replace=False)
        tiles = np.repeat(kinds, level.copies).astype(np.uint8)
        if level.solvable:
            return clearable_deal(tiles, level.rows, level.cols, rng, level.turns)
        for _ in range(MAX_DEALS):
            board = rng.permutation(tiles).tobytes()
            if self._paths(board).any_pair():
                return board
        raise ValueError(f"none of {MAX_DEALS} deals at {level} has a legal action")

    def _after_random_moves(self, board: bytes, count: int, rng: np.random.Generator) -> bytes | None:
        """The board after `count` uniformly random legal moves, None where the player is stuck before.

        Trying equal pairs in random order until one is connected is uniform over the connected ones.
        """
        for _ in range(count):
            pairs, paths = equal_pairs(board), self._paths(board)
            order = (pairs[number] for number in rng.permutation(len(pairs)).tolist())
            pair = next((pair for pair in order if paths.connects(*pair)), None)
            if pair is None:
                return None
            board = without(board, [pair])
        return board

    def _after_solver_moves(self, board: bytes, count: int, rng: np.random.Generator) -> bytes | None:
        order = self._order(board)
        return without(board, list(order[:count])) if len(order) > count else None

    def _order(self, board: bytes) -> tuple[tuple[int, int], ...]:
        return clearing_order(board, self.level.rows, self.level.cols, self.level.turns)

    def _paths(self, board: bytes) -> Paths:
        return Paths(board, self.level.rows, self.level.cols, self.level.turns)
