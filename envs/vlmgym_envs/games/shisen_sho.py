"""Shisen-Sho: removes pairs of equal tiles that a path of at most two turns connects.

| State  | board, bytes [rows * cols]: 0 empty, else 1 + color * shapes + shape; num_moves, pairs removed so far |
| Action | ((row1, col1), (row2, col2)), counted from (0, 0) at the top left; the order of the two does not matter |
| Reward | 1.0 for a removed pair, so a game's sum is the number of pairs removed |
| Ends   | when no legal action is left: info["cleared"] says whether the board is empty or the player is stuck |
| Solver | first move of an order that clears the board, or of the longest one found within the bounds of _clearing.py |
| Source | arXiv 2505.13426 (G1, VLM-Gym): 6 x 6 cells, 6 colors x 6 shapes, four tiles of a kind |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Game, Step, Teacher
from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._cells import CellPair, Grid
from vlmgym_envs.games._clearing import clearable_deal, clearing_order, without
from vlmgym_envs.games._paths import Paths, equal_pairs
from vlmgym_envs.games._tiles import TileSet
from vlmgym_envs.level import BoardLevel, choice, knob
from vlmgym_envs.shapes import COLORS, SHAPES, tile_atlas

MAX_DEALS = 1_000


@dataclass(frozen=True, slots=True)
class ShisenShoLevel(BoardLevel):
    """Perception: colors, shapes and the knobs of `BoardLevel`. Reasoning: rows, cols, copies, solvable."""

    rows: int = knob(6, 2, 16)
    cols: int = knob(6, 2, 16)
    copies: int = choice(4, (2, 4, 6, 8))
    colors: int = knob(6, 1, len(COLORS))
    shapes: int = knob(6, 1, len(SHAPES))
    solvable: bool = choice(True, (True, False))

    def check(self) -> None:
        if self.rows * self.cols % self.copies:
            raise ValueError(
                f"rows * cols must be divisible by copies, got {self.rows} * {self.cols} and {self.copies}"
            )
        if self.num_kinds_dealt > self.colors * self.shapes:
            raise ValueError(
                f"colors * shapes must be at least rows * cols / copies = {self.num_kinds_dealt}, "
                f"got {self.colors} * {self.shapes}"
            )

    @property
    def num_kinds_dealt(self) -> int:
        return self.rows * self.cols // self.copies


@dataclass(frozen=True, slots=True)
class ShisenShoState:
    """See the table of this module."""

    board: bytes
    num_moves: int


class ShisenSho(Game[ShisenShoLevel, ShisenShoState, CellPair]):
    """The table of this module says what each method works with.

    levels: `paper` fills 728 x 728 pixels, about the area of the paper's 640 x 840, with tiles of four 28 px patches.
    """

    level_class = ShisenShoLevel
    levels: ClassVar[Mapping[str, ShisenShoLevel]] = {
        "tiny": ShisenShoLevel(rows=3, cols=4, colors=2, shapes=2, tile_px=16, border_px=0),
        "paper": ShisenShoLevel(),
        "large": ShisenShoLevel(rows=12, cols=12, tile_px=56),
    }

    def __init__(self, level: ShisenShoLevel, level_name: str = "custom") -> None:
        super().__init__(level, level_name)
        self._grid = Grid(level.rows, level.cols)
        self._tiles = TileSet(level.colors, level.shapes)
        atlas = tile_atlas(level.colors, level.shapes, level.tile_px)
        self._painter = BoardPainter(level.rows, level.cols, atlas, level)

    def init(self, seed: int) -> ShisenShoState:
        """Kinds chosen uniformly without repetition, `copies` tiles of each, shuffled.

        solvable: shuffled by `clearable_deal`, else uniformly, again where no action is legal.
        """
        return ShisenShoState(self._deal(np.random.default_rng(seed)), 0)

    def mid_game(self, seed: int) -> ShisenShoState:
        """The number of removed pairs is uniform on 0..pairs-1; each is a uniformly random legal move on a fresh deal.

        A game that is stuck before or at that point is played again from a new deal with the same number.
        """
        level = self.level
        rng = np.random.default_rng(seed)
        num_removed = int(rng.integers(level.rows * level.cols // 2))
        for _ in range(MAX_DEALS):
            board: bytes | None = self._deal(rng)
            for _ in range(num_removed):
                board = board and self._after_random_move(board, rng)
            if board and self._paths(board).any_pair():
                return ShisenShoState(board, num_removed)
        raise ValueError(f"{MAX_DEALS} random games at {level} were stuck before {num_removed} moves")

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
        tiles = np.frombuffer(state.board, dtype=np.uint8).reshape(self.level.rows, self.level.cols)
        return self._painter.paint(tiles)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._painter.image_shape

    def describe(self, state: ShisenShoState) -> str:
        """Cells " Red circle " and " - " joined by "|", rows joined by newlines."""
        return self._tiles.write(state.board, self.level.cols)

    def from_text(self, text: str) -> ShisenShoState:
        return ShisenShoState(self._tiles.read(self.cells(text), self.level.rows, self.level.cols), 0)

    def parse(self, answer: str) -> CellPair:
        return self._grid.parse(answer)

    def format_answer(self, action: CellPair) -> str:
        return self._grid.format(action)

    def solve(self, state: ShisenShoState) -> CellPair | None:
        order = clearing_order(state.board, self.level.rows, self.level.cols)
        return self._grid.pair(*order[0]) if order else None

    def explain(self, state: ShisenShoState, action: CellPair) -> str:
        """What stands on the two cells: " Red circle (0, 0) Red circle (1, 2)"."""
        return "".join(f" {self._tiles.name(state.board[self._grid.index(cell)])} {cell}" for cell in action)

    @property
    def prompt(self) -> str:
        level = self.level
        return "\n".join(
            (
                f"The picture shows a Shisen-Sho board with {level.rows} rows and {level.cols} columns.",
                "A move removes two tiles of the same color and shape that a path connects.",
                "The path runs along rows and columns through empty cells and turns at most twice.",
                "It may also run around the outside of the board, one cell away from its edge.",
                "Cells are named (row, column); the top left cell is (0, 0).",
                f"Colors: {', '.join(list(COLORS)[: level.colors])}.",
                f"Shapes: {', '.join(SHAPES[: level.shapes])}.",
                "First write down the board, one line per row, cells separated by |.",
                'A tile is written as " Red circle ", an empty cell as " - ".',
                "Then reason about which two tiles to remove.",
                "Then answer with their cells. Use exactly this form:",
                "<perception>board</perception><think>reasoning</think><answer>(row1, col1) (row2, col2)</answer>",
            )
        )

    @property
    def action_space(self) -> gym.spaces.MultiDiscrete:
        return self._grid.space

    def from_space(self, sample: Any) -> CellPair:
        return self._grid.from_space(sample)

    def to_space(self, action: CellPair) -> NDArray[np.int64]:
        return self._grid.to_space(action)

    def random_action(self, rng: np.random.Generator) -> CellPair:
        return self._grid.random_pair(rng)

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
            return f"no path of at most two turns connects {action[0]} and {action[1]}"
        return None

    def _deal(self, rng: np.random.Generator) -> bytes:
        level = self.level
        kinds = 1 + rng.choice(self._tiles.num_kinds, size=level.num_kinds_dealt, replace=False)
        tiles = np.repeat(kinds, level.copies).astype(np.uint8)
        if level.solvable:
            return clearable_deal(tiles, level.rows, level.cols, rng)
        for _ in range(MAX_DEALS):
            board = rng.permutation(tiles).tobytes()
            if self._paths(board).any_pair():
                return board
        raise ValueError(f"none of {MAX_DEALS} deals at {level} has a legal action")

    def _after_random_move(self, board: bytes, rng: np.random.Generator) -> bytes | None:
        """The board after a uniformly random legal move, None where the player is stuck.

        Trying equal pairs in random order until one is connected is uniform over the connected ones.
        """
        pairs, paths = equal_pairs(board), self._paths(board)
        for number in rng.permutation(len(pairs)).tolist():
            if paths.connects(*pairs[number]):
                return without(board, [pairs[number]])
        return None

    def _paths(self, board: bytes) -> Paths:
        return Paths(board, self.level.rows, self.level.cols)
