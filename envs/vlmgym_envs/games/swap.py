"""Swap: exchanges two neighbouring tiles so that three or more equal ones line up; these vanish and new ones fall.

| State  | board, bytes [rows * cols]: 0 empty, else 1 + color * shapes + shape; num_moves; stream of new tiles |
| Action | ((row1, col1), (row2, col2)), counted from (0, 0) at the top left; the order of the two does not matter |
| Reward | the number of tiles removed, as a float: by the swap and by all cascades after it |
| Ends   | refill: never, a board without a legal swap is shuffled; else when no swap is legal |
| Solver | one move deep: most tiles removed of those in sight, then most legal swaps left, then reading order |
| Source | arXiv 2505.13426 (G1, VLM-Gym): 8 x 8 cells, 4 colors x 3 shapes |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Step, Teacher
from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._cells import CellPair, CellPairGame, Grid
from vlmgym_envs.games._matching import Matching, Pair, swapped
from vlmgym_envs.games._stream import new_stream
from vlmgym_envs.games._tiles import EMPTY as NO_TILE
from vlmgym_envs.games._tiles import TileSet
from vlmgym_envs.level import BoardLevel, choice, knob
from vlmgym_envs.reasons.swapping import reason
from vlmgym_envs.shapes import ARTS, COLORS, SHAPES, tile_atlas

EMPTY = "Empty"

MAX_WARM_UP = 5
"""Random moves after which the number of legal swaps has settled: at `paper` from 4.1 on a fresh board to 2.7."""
MIN_RANDOM_RUNS, MAX_RANDOM_RUNS = 0.03, 6.0
"""How many lines of run_length equal tiles a board of random tiles holds on average. Below, hardly any swap is legal;
above, boards without a run are too rare to deal, and cascades too long."""


@dataclass(frozen=True, slots=True)
class SwapLevel(BoardLevel):
    """Perception: colors, shapes, art and the knobs of `BoardLevel`. Reasoning: rows, cols, run_length, refill.

    run_length: how many equal tiles in a line vanish. refill: new tiles fill the gaps. art: how a tile is drawn.
    """

    rows: int = knob(8, 3, 16)
    cols: int = knob(8, 3, 16)
    colors: int = knob(4, 1, len(COLORS))
    shapes: int = knob(3, 1, len(SHAPES))
    art: str = choice("plain", ARTS)
    run_length: int = choice(3, (3, 4))
    refill: bool = choice(True, (True, False))

    def check(self) -> None:
        kinds = self.colors * self.shapes
        if kinds < 3:
            raise ValueError(f"colors * shapes must be at least 3, got {self.colors} * {self.shapes}")
        across = self.rows * max(self.cols - self.run_length + 1, 0)
        down = self.cols * max(self.rows - self.run_length + 1, 0)
        num_runs = (across + down) / kinds ** (self.run_length - 1)
        if not MIN_RANDOM_RUNS <= num_runs <= MAX_RANDOM_RUNS:
            raise ValueError(
                f"colors * shapes must give a random board {MIN_RANDOM_RUNS}..{MAX_RANDOM_RUNS} runs on average, "
                f"got {self.colors} * {self.shapes} with {num_runs:.2f} runs on {self.rows} x {self.cols} cells"
            )


@dataclass(frozen=True, slots=True)
class SwapState:
    """See the table of this module. stream: as in games/_stream.py, never seen by a player."""

    board: bytes
    num_moves: int
    stream: int


class Swap(CellPairGame[SwapLevel, SwapState]):
    """The table of this module says what each method works with.

    levels: `paper` fills 672 x 672 pixels, near the area of the paper's 640 x 840, with tiles of three 28 px patches.
    """

    level_class = SwapLevel
    value_unit = "tiles"
    levels: ClassVar[Mapping[str, SwapLevel]] = {
        "tiny": SwapLevel(rows=4, cols=4, colors=2, shapes=2, tile_px=16, border_px=0),
        "small": SwapLevel(rows=6, cols=6, colors=3, shapes=2, tile_px=84, border_px=0),
        "paper": SwapLevel(tile_px=84, border_px=0),
        "noisy": SwapLevel(tile_px=84, border_px=0, art="striped", jitter=8, noise=24, distractors=16),
        "large": SwapLevel(rows=12, cols=12, tile_px=56, border_px=0),
        "hard": SwapLevel(
            rows=12, cols=12, refill=False, tile_px=56, border_px=0, art="dark", jitter=8, noise=24, distractors=24
        ),
    }

    def __init__(self, level: SwapLevel, level_name: str = "custom") -> None:
        super().__init__(level, level_name)
        self._grid = Grid(level.rows, level.cols)
        self._matching = Matching(level.rows, level.cols, level.run_length, level.colors * level.shapes)
        self._tiles = TileSet(level.colors, level.shapes)
        self._names = (EMPTY, *self._tiles.names()[1:])
        self._painter = _painter(level)

    def init(self, seed: int) -> SwapState:
        """Uniform over the boards without a run and with a legal swap."""
        return SwapState(self._matching.deal(np.random.default_rng(seed)), 0, new_stream(seed))

    def mid_game(self, seed: int) -> SwapState:
        """Refill: the number of moves is uniform on 0..MAX_WARM_UP; each is a uniformly random legal swap.

        Without: such a game is played to its end, and a state of it that is not the last is chosen uniformly.
        """
        rng = np.random.default_rng(seed)
        state = SwapState(self._matching.deal(rng), 0, new_stream(seed))
        swaps = self._matching.swaps(state.board)
        if self.level.refill:
            for _ in range(rng.integers(MAX_WARM_UP + 1)):
                state, swaps, _ = self._play(state, swaps[rng.integers(len(swaps))])
            return state
        game = []
        while swaps:
            game.append(state)
            state, swaps, _ = self._play(state, swaps[rng.integers(len(swaps))])
        return game[rng.integers(len(game))]

    def legal_actions(self, state: SwapState) -> list[CellPair]:
        """In reading order, the first cell of each pair before the second."""
        return [self._grid.pair(*pair) for pair in self._matching.swaps(state.board)]

    def step(self, state: SwapState, action: CellPair) -> Step[SwapState]:
        """Info: "removed", the number of tiles; "cascades", the rounds of removal after the first; "reshuffled".

        In each round all runs vanish at once, tiles fall, and gaps are refilled in reading order with uniformly random
        kinds. Runs and gaps that a board from a text has to begin with go the same way, with its first legal swap.
        """
        reason = self._refusal(state.board, action)
        if reason is not None:
            return Step(state, 0.0, False, {"refused": reason})
        after, swaps, info = self._play(state, (self._grid.index(action[0]), self._grid.index(action[1])))
        return Step(after, float(info["removed"]), not swaps, info)

    def render(self, state: SwapState) -> NDArray[np.uint8]:
        tiles = np.frombuffer(state.board, dtype=np.uint8).reshape(self.level.rows, self.level.cols)
        return self._painter.paint(tiles)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._painter.image_shape

    def describe(self, state: SwapState) -> str:
        """Cells "Red circle" and "Empty" joined by " | ", rows joined by newlines."""
        return _board_text(self._names, state.board, self.level.cols)

    def from_text(self, text: str) -> SwapState:
        """Any board, with runs, gaps or no legal swap as well; the stream of new tiles is that of seed 0.

        A gap may also be written as "-".
        """
        cells = [[NO_TILE if cell == EMPTY else cell for cell in line] for line in self.cells(text)]
        return SwapState(self._tiles.read(cells, self.level.rows, self.level.cols), 0, new_stream(0))

    def cell_parts(self, cell: str) -> tuple[str, ...] | None:
        return self._tiles.parts(NO_TILE if cell == EMPTY else cell)

    def solve(self, state: SwapState) -> CellPair | None:
        """The first, in reading order, of the swaps that remove most in sight and then leave most legal swaps."""
        best = self._matching.best_in_sight(state.board)
        if not best:
            return None
        num_swaps = {pair: len(self._matching.swaps(board)) for pair, board in best.items()}
        return self._grid.pair(*max(best, key=lambda pair: num_swaps[pair]))

    def value(self, state: SwapState, action: CellPair | None) -> float:
        """The tiles removed in sight, before any new tile comes; none by a refused answer."""
        if action is None:
            return 0.0
        swap = swapped(state.board, self._grid.index(action[0]), self._grid.index(action[1]))
        return float(self._matching.settle(swap, state.stream, refill=False).num_removed)

    def explain(self, state: SwapState, action: CellPair) -> str:
        """What is swapped and what that lines up, or why it is refused.

        " Red circle (0, 2) Blue square (1, 2) lines up Red circle (1, 0) (1, 1) (1, 2)".
        """
        tiles = "".join(f" {self._names[state.board[self._grid.index(cell)]]} {cell}" for cell in action)
        reason = self._refusal(state.board, action)
        if reason is not None:
            return f"{tiles}: {reason}"
        first, second = (self._grid.index(cell) for cell in action)
        board = swapped(state.board, first, second)
        lines = [line for cell in (first, second) for line in self._matching.lines_through(board, cell)]
        names = [
            " ".join([self._names[board[line[0]]], *(str(divmod(cell, self.level.cols)) for cell in line)])
            for line in lines
        ]
        return f"{tiles} lines up {' and '.join(names)}"

    def reason(self, state: SwapState, action: CellPair, rng: np.random.Generator) -> str:
        return reason(self, state, action, rng)

    @property
    def prompt(self) -> str:
        level = self.level
        source = "new random tiles fill the board from the top" if level.refill else "the gaps at the top stay empty"
        return "\n".join(
            (
                f"The picture shows a match-3 board with {level.rows} rows and {level.cols} columns.",
                "A move swaps two tiles that share an edge.",
                f"It must line up {level.run_length} or more tiles of the same color and shape in a row or a column.",
                f"Such lines vanish, the tiles above them fall, and {source}. This repeats while there are lines.",
                "Cells are named (row, column); the top left cell is (0, 0).",
                f"Colors: {', '.join(list(COLORS)[: level.colors])}.",
                f"Shapes: {', '.join(SHAPES[: level.shapes])}.",
                "First write down the board, one line per row, cells separated by |.",
                f'A tile is written as "Red circle", an empty cell as "{EMPTY}".',
                "Then reason about which swap makes most tiles vanish.",
                "Then answer with the two cells to swap. Use exactly this form:",
                "<perception>board</perception><think>reasoning</think><answer>(row1, col1) (row2, col2)</answer>",
            )
        )

    @property
    def teachers(self) -> Mapping[str, Teacher[SwapState, CellPair]]:
        """greedy sees no new tiles: uniform over the swaps that remove most in sight.

        Adds neighbours, uniform over the pairs of cells that share an edge.
        """
        return {**super().teachers, "greedy": self._greedy_in_sight, "neighbours": self._neighbours}

    def _greedy_in_sight(self, state: SwapState, rng: np.random.Generator) -> CellPair:
        best = list(self._matching.best_in_sight(state.board))
        return self._playable(state, self._grid.pair(*best[int(rng.integers(len(best)))]) if best else None)

    def _neighbours(self, state: SwapState, rng: np.random.Generator) -> CellPair:
        rows, cols = self.level.rows, self.level.cols
        number = int(rng.integers(rows * (cols - 1) + cols * (rows - 1)))
        if number < rows * (cols - 1):
            row, col = divmod(number, cols - 1)
            return (row, col), (row, col + 1)
        row, col = divmod(number - rows * (cols - 1), cols)
        return (row, col), (row + 1, col)

    def _refusal(self, board: bytes, action: CellPair) -> str | None:
        """Why the rules refuse an action; None for a legal one."""
        level = self.level
        for cell in action:
            if cell not in self._grid:
                return f"cell {cell} is outside rows 0..{level.rows - 1}, cols 0..{level.cols - 1}"
        (row_1, col_1), (row_2, col_2) = action
        distance = abs(row_1 - row_2) + abs(col_1 - col_2)
        if distance == 0:
            return f"the two cells must differ, got {action[0]} twice"
        if distance > 1:
            return f"the two cells must share an edge, got {action[0]} and {action[1]}"
        first, second = (self._grid.index(cell) for cell in action)
        for cell, index in zip(action, (first, second), strict=True):
            if not board[index]:
                return f"cell {cell} is empty"
        if board[first] == board[second]:
            return f"the two tiles must differ, got {self._names[board[first]]} twice"
        if not self._matching.makes_run(board, first, second):
            return f"swapping {action[0]} and {action[1]} lines up no {level.run_length} equal tiles"
        return None

    def _play(self, state: SwapState, pair: Pair) -> tuple[SwapState, list[Pair], dict[str, int]]:
        """The state after a legal swap, the legal swaps there, and the info of `step`."""
        swap = swapped(state.board, *pair)
        board, stream, num_rounds, num_removed = self._matching.settle(swap, state.stream, self.level.refill)
        swaps = self._matching.swaps(board)
        reshuffled = self.level.refill and not swaps
        if reshuffled:
            board, stream = self._matching.reshuffled(board, stream)
            swaps = self._matching.swaps(board)
        info = {"cascades": num_rounds - 1, "removed": num_removed, "reshuffled": reshuffled}
        return SwapState(board, state.num_moves + 1, stream), swaps, info


@lru_cache(maxsize=16)
def _painter(level: SwapLevel) -> BoardPainter:
    """One for all games of a level: its noise takes some megabytes."""
    atlas = tile_atlas(level.colors, level.shapes, level.tile_px, level.art)
    return BoardPainter(level.rows, level.cols, atlas, level)


@lru_cache(maxsize=1024)
def _board_text(names: tuple[str, ...], board: bytes, cols: int) -> str:
    """Cached, as all answers to a state are held against one text."""
    lines = [board[start : start + cols] for start in range(0, len(board), cols)]
    return "\n".join([" | ".join([names[tile] for tile in line]) for line in lines])
