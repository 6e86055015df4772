"""2048: slides all tiles of a board in one direction, so that equal ones meet and merge into their sum.

| State  | board, bytes [rows * cols]: 0 empty, else the exponent of the tile; score so far; stream, its randomness |
| Action | 0 up, 1 right, 2 down, 3 left |
| Reward | the sum of the tiles that the move made by merging, as in 4.0 for two 2s; 0.0 for a move without a merge |
| Ends   | when no move changes the board; one that changes nothing is refused. info["max_tile"] is the greatest tile |
| Solver | expectimax over two moves and all tiles that may come in between, as stated in _expectimax.py |
| Source | arXiv 2505.13426 (G1, VLM-Gym): 4 x 4 cells, two tiles at the start, a new one is a 4 in 10% of the cases |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Step
from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._directions import DIRECTIONS, DirectionGame
from vlmgym_envs.games._expectimax import Expectimax
from vlmgym_envs.games._merging import MAX_EXPONENT, Moves, points_so_far, with_new_tile
from vlmgym_envs.games._number_tiles import ARTS, COLORS, number_atlas
from vlmgym_envs.games._stream import draw_below, new_stream
from vlmgym_envs.level import BoardLevel, choice, knob
from vlmgym_envs.reasons.merging import reason

NUM_START_TILES = 2
MID_GAME_MOVES_PER_CELL = 16
MIN_DIGITS_PX = 16

NAMES = ("-", *(str(2**exponent) for exponent in range(1, MAX_EXPONENT + 1)))
"""What the board text calls a tile, indexed by exponent."""

_CELLS = [f" {name} " for name in NAMES]
_EXPONENTS = {name: exponent for exponent, name in enumerate(NAMES)}
_ORDERS = list(permutations(range(len(DIRECTIONS))))


@dataclass(frozen=True, slots=True)
class Twenty48Level(BoardLevel):
    """Perception: art, see `ARTS`, and the knobs of `BoardLevel`. Reasoning: rows, cols, four_percent.

    four_percent: how often a new tile is a 4, else a 2.
    """

    rows: int = knob(4, 2, 8)
    cols: int = knob(4, 2, 8)
    four_percent: int = knob(10, 0, 100)
    art: str = choice("classic", ARTS)

    def check(self) -> None:
        if self.art != "colors" and self.tile_px < MIN_DIGITS_PX:
            raise ValueError(f"tile_px must be at least {MIN_DIGITS_PX} for art {self.art!r}, got {self.tile_px}")


@dataclass(frozen=True, slots=True)
class Twenty48State:
    """See the table of this module."""

    board: bytes
    score: int
    stream: int


class Twenty48(DirectionGame[Twenty48Level, Twenty48State]):
    """The table of this module says what each method works with.

    levels: `paper` fills 336 x 336 pixels with tiles of 3 x 3 patches of 28 px. The paper's picture of the same board
    has 640 x 840; this one costs 21% of its tokens, and the digits of 1024 are still 22 pixels high.
    """

    level_class = Twenty48Level
    score = "reward_sum"
    value_unit = "empty cells"
    levels: ClassVar[Mapping[str, Twenty48Level]] = {
        "tiny": Twenty48Level(rows=3, cols=3, art="vivid", tile_px=16, border_px=0),
        "small": Twenty48Level(art="vivid", tile_px=56, border_px=0),
        "paper": Twenty48Level(tile_px=84, border_px=0),
        "noisy": Twenty48Level(art="mono", tile_px=84, border_px=0, jitter=10, noise=24, distractors=24),
        "large": Twenty48Level(rows=6, cols=6, tile_px=84, border_px=0),
        "hard": Twenty48Level(
            rows=6, cols=6, art="mono", tile_px=56, border_px=0, jitter=10, noise=24, distractors=48, four_percent=30
        ),
    }

    def __init__(self, level: Twenty48Level, level_name: str = "custom") -> None:
        super().__init__(level, level_name)
        self._moves = Moves(level.rows, level.cols)
        self._search = Expectimax(self._moves, level.four_percent)
        self._painter = BoardPainter(level.rows, level.cols, number_atlas(level.art, level.tile_px), level)

    def init(self, seed: int) -> Twenty48State:
        """Two tiles on an empty board."""
        board, stream = self._deal(new_stream(seed))
        return Twenty48State(board, 0, stream)

    def mid_game(self, seed: int) -> Twenty48State:
        """A uniformly drawn state of a game, as far as its first rows * cols * MID_GAME_MOVES_PER_CELL moves go.

        Each move is the first legal one in a random order of the directions. In one half of the games the order is
        drawn anew for each move, so the moves are uniform over the legal ones; such a game has about 115 moves on 4 x 4
        cells. In the other half it is drawn once, which takes the game further and keeps great tiles at an edge.
        """
        num_places = len(self._moves.rows) * len(self._moves.cols) * MID_GAME_MOVES_PER_CELL
        keep_order, stream = draw_below(new_stream(seed), 2)
        # The place is drawn first, so that no move is played in vain; where the game ends before it, again among the
        # states there are. Either way each of them is as likely as the others.
        place, stream = draw_below(stream, num_places)
        states = self._random_game(stream, place + 1, bool(keep_order))
        if place >= len(states):
            place, _ = draw_below(new_stream(stream), len(states))
        board, stream = states[place]
        return Twenty48State(board, points_so_far(board, NUM_START_TILES + place), stream)

    def legal_actions(self, state: Twenty48State) -> list[int]:
        """Ascending."""
        return self._moves.legal(state.board)

    def step(self, state: Twenty48State, action: int) -> Step[Twenty48State]:
        if action not in range(len(DIRECTIONS)):
            return Step(state, 0.0, False, {"refused": f"direction must be in 0..{len(DIRECTIONS) - 1}, got {action}"})
        after = self._moves.after(state.board, action)
        if after == state.board:
            return Step(state, 0.0, False, {"refused": f"moving {DIRECTIONS[action]} changes nothing"})
        points = self._moves.points(state.board, action)
        board, stream = with_new_tile(after, state.stream, self.level.four_percent)
        next_state = Twenty48State(board, state.score + points, stream)
        return Step(next_state, float(points), not self._moves.any_legal(board), {"max_tile": 1 << max(board)})

    def render(self, state: Twenty48State) -> NDArray[np.uint8]:
        tiles = np.frombuffer(state.board, dtype=np.uint8).reshape(self.level.rows, self.level.cols)
        return self._painter.paint(tiles)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._painter.image_shape

    def describe(self, state: Twenty48State) -> str:
        """Cells " 2 " and " - " joined by "|", rows joined by newlines."""
        cells = [_CELLS[tile] for tile in state.board]
        return "\n".join(["|".join(cells[row]) for row in self._moves.rows])

    def from_text(self, text: str) -> Twenty48State:
        """A state with score 0 and always the same stream."""
        level = self.level
        lines = self.cells(text)
        if len(lines) != level.rows:
            raise ValueError(f"board must have {level.rows} rows, got {len(lines)}")
        board = bytearray()
        for row, line in enumerate(lines):
            if len(line) != level.cols:
                raise ValueError(f"row {row} must have {level.cols} cells, got {len(line)}")
            for col, cell in enumerate(line):
                if cell not in _EXPONENTS:
                    raise ValueError(f"row {row}, col {col}: {cell!r} is no power of two in 2..{NAMES[-1]} and not '-'")
                board.append(_EXPONENTS[cell])
        return Twenty48State(bytes(board), 0, new_stream(0))

    def cell_parts(self, cell: str) -> tuple[str, ...] | None:
        if cell == NAMES[0]:
            return ()
        return (cell,) if cell in _EXPONENTS else None

    def format_answer(self, action: int) -> str:
        """The number of the direction, as in the paper."""
        return str(action)

    def solve(self, state: Twenty48State) -> int | None:
        return self._search.best(state.board)

    def value(self, state: Twenty48State, action: int | None) -> float:
        """What the solver's search expects; a refused answer counts as the worst legal move does."""
        actions = self._moves.legal(state.board) if action is None else [action]
        return min((self._search.value(self._moves.after(state.board, action)) for action in actions), default=0.0)

    def explain(self, state: Twenty48State, action: int) -> str:
        """The merges in that direction and what they pay: "row 0: 2 + 2 | row 3: 8 + 8 | left pays 20"."""
        name = DIRECTIONS[action]
        if action not in self.legal_actions(state):
            return f"nothing moves | {name} is illegal"
        line_name = "col" if name in ("up", "down") else "row"
        merges = [
            f"{line_name} {line}: {NAMES[tile]} + {NAMES[tile]}"
            for line, slide in enumerate(self._moves.slides(state.board, action))
            for tile in slide.merged
        ]
        return " | ".join([*(merges or ["nothing merges"]), f"{name} pays {self._moves.points(state.board, action)}"])

    def reason(self, state: Twenty48State, action: int, rng: np.random.Generator) -> str:
        return reason(self, state, action, rng)

    @cached_property
    def prompt(self) -> str:
        level = self.level
        colors = ", ".join(f"{color} {NAMES[index + 1]}" for index, color in enumerate(COLORS))
        lines = (
            f"The picture shows a 2048 board with {level.rows} rows and {level.cols} columns.",
            "A move slides all tiles as far as they go in one direction: up, right, down or left.",
            "Two equal tiles that meet merge into one tile with their sum, and the move pays that sum.",
            "A tile merges at most once per move; the tiles nearest to the edge they move to merge first.",
            "Then a new tile, a 2 or a 4, appears on a random empty cell. A move that changes nothing is illegal.",
            *([f"The color of a tile is its number: {colors}."] if level.art == "colors" else []),
            "First write down the board, one line per row, cells separated by |.",
            'A tile is written as " 2 ", an empty cell as " - ".',
            "Then reason about the direction to move in.",
            "Then answer with its number: 0 up, 1 right, 2 down, 3 left. Use exactly this form:",
            "<perception>board</perception><think>reasoning</think><answer>number</answer>",
        )
        return "\n".join(lines)

    def _deal(self, stream: int) -> tuple[bytes, int]:
        board = bytes(self.level.rows * self.level.cols)
        for _ in range(NUM_START_TILES):
            board, stream = with_new_tile(board, stream, self.level.four_percent)
        return board, stream

    def _random_game(self, stream: int, max_states: int, keep_order: bool) -> list[tuple[bytes, int]]:
        """The first states of a game, as (board, stream), each with a legal move; see `mid_game` for the moves."""
        moves = self._moves
        board, stream = self._deal(stream)
        which, stream = draw_below(stream, len(_ORDERS))
        states = list[tuple[bytes, int]]()
        while len(states) < max_states:
            for direction in _ORDERS[which]:
                after = moves.after(board, direction)
                if after != board:
                    break
            else:
                break
            states.append((board, stream))
            board, stream = with_new_tile(after, stream, self.level.four_percent)
            if not keep_order:
                which, stream = draw_below(stream, len(_ORDERS))
        return states
