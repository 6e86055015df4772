"""Sokoban: pushes boxes onto goals, one at a time and never back.

| State  | board, bytes [rows * cols]: 6 for a wall; else 2 for a box or 4 for the player, and 1 more on a goal     |
| Action | 0 up, 1 right, 2 down, 3 left: one step, which pushes a box that is in the way                           |
| Reward | 1.0 for pushing a box onto a goal, -1.0 for pushing one off it, else 0.0                                 |
| Ends   | when every box is on a goal: info["solved"]. info["dead"]: a box is where no push can bring it to a goal |
| Solver | the first step of a plan with the fewest pushes; exact within the bound of the search in _boxes.py       |
| Source | Thinking Rabbit (1982), not in arXiv 2505.13426; deals as in _boxes.py, all of which can be solved       |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Step
from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._boxes import MAX_KEPT, Deal, Push, Room, cells_of, deal, fewest_pushes, lost_cells, shifted
from vlmgym_envs.games._directions import DIRECTIONS, DirectionGame, neighbours
from vlmgym_envs.games._things import ARTS, Things
from vlmgym_envs.level import BoardLevel, choice, knob
from vlmgym_envs.reasons.boxes import reason

WORDS = ("-", "goal", "box", "box on goal", "player", "player on goal", "wall")
FLOOR, GOAL, BOX, BOX_ON_GOAL, PLAYER, PLAYER_ON_GOAL, WALL = range(7)
UNMOVED = bytes.maketrans(bytes((BOX, BOX_ON_GOAL, PLAYER, PLAYER_ON_GOAL)), bytes((FLOOR, GOAL, FLOOR, GOAL)))
"""From what stands on a cell to what is there without the box or the player."""


@dataclass(frozen=True, slots=True)
class SokobanLevel(BoardLevel):
    """Perception: art and the knobs of `BoardLevel`. Reasoning: rows, cols, boxes, walls, pulls.

    walls: in percent of the cells, rounded down. pulls: how many pulls lead from the solved board to a fresh start.
    """

    tile_px: int = knob(56, 8, 128)
    border_px: int = knob(0, 0, 128)
    art: str = choice("plain", tuple(ARTS))
    rows: int = knob(8, 3, 16)
    cols: int = knob(8, 3, 16)
    boxes: int = knob(3, 1, 5)
    walls: int = knob(15, 0, 40)
    pulls: int = knob(30, 1, 100)

    def check(self) -> None:
        num_free = self.rows * self.cols - self.num_walls
        if 4 * self.boxes > num_free:
            raise ValueError(f"boxes must be at most a quarter of the {num_free} free cells, got {self.boxes}")

    @property
    def num_walls(self) -> int:
        return self.rows * self.cols * self.walls // 100


LARGE = SokobanLevel(rows=10, cols=10, boxes=4, walls=20, pulls=40)
HARD_TO_READ = {"art": "dusk", "jitter": 10, "noise": 24, "distractors": 12}


@dataclass(frozen=True, slots=True)
class SokobanState:
    """See the table of this module."""

    board: bytes


class Sokoban(DirectionGame[SokobanLevel, SokobanState]):
    """The table of this module says what each method works with.

    levels: the paper has no Sokoban; `paper` is the standard size that every game has.
    """

    score: ClassVar[Literal["reward_sum", "positive_steps"]] = "reward_sum"
    level_class = SokobanLevel
    value_unit = "steps"
    levels: ClassVar[Mapping[str, SokobanLevel]] = {
        "tiny": SokobanLevel(rows=4, cols=4, boxes=1, walls=10, pulls=4, tile_px=16),
        "small": SokobanLevel(rows=6, cols=6, boxes=2, walls=10, pulls=10),
        "paper": SokobanLevel(),
        "noisy": SokobanLevel().override(HARD_TO_READ),
        "large": LARGE,
        "hard": LARGE.override(HARD_TO_READ),
    }

    def __init__(self, level: SokobanLevel, level_name: str = "custom") -> None:
        super().__init__(level, level_name)
        self._things = Things(WORDS)
        self._painter = BoardPainter(level.rows, level.cols, self._things.atlas(level.art, level.tile_px), level)
        self._next = neighbours(level.rows, level.cols)

    def init(self, seed: int) -> SokobanState:
        """A deal of _boxes.py after `pulls` pulls; the player is uniform over the cells that it can walk to."""
        return self._deal(self.level.pulls, 0.0, np.random.default_rng(seed))

    def mid_game(self, seed: int) -> SokobanState:
        """As a fresh start, after a number of pulls that is uniform on 1..pulls, so at most so many pushes remain.

        With probability 1/2 the player stays where the last pull took it, beside a box that it can push.
        """
        rng = np.random.default_rng(seed)
        return self._deal(int(rng.integers(1, self.level.pulls + 1)), 0.5, rng)

    def legal_actions(self, state: SokobanState) -> list[int]:
        """In the order up, right, down, left."""
        return [action for action in range(len(DIRECTIONS)) if isinstance(self._played(state.board, action), bytes)]

    def step(self, state: SokobanState, action: int) -> Step[SokobanState]:
        board = self._played(state.board, action)
        if isinstance(board, str):
            return Step(state, 0.0, False, {"refused": board})
        dead_cells = _dead_cells(board.translate(UNMOVED), self.level.cols)
        solved, dead = BOX not in board, any(board[cell] == BOX for cell in dead_cells)
        num_won = state.board.count(BOX) - board.count(BOX)
        return Step(SokobanState(board), float(num_won), solved, {"solved": solved, "dead": dead})

    def render(self, state: SokobanState) -> NDArray[np.uint8]:
        tiles = np.frombuffer(state.board, dtype=np.uint8).reshape(self.level.rows, self.level.cols)
        return self._painter.paint(tiles)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._painter.image_shape

    def describe(self, state: SokobanState) -> str:
        """Cells " wall ", " - ", " goal ", " box ", " box on goal " and so on joined by "|", rows by newlines."""
        return self._things.write(state.board, self.level.cols)

    def from_text(self, text: str) -> SokobanState:
        """One player, any number of boxes and goals."""
        board = self._things.read(self.cells(text), self.level.rows, self.level.cols)
        num_players = board.count(PLAYER) + board.count(PLAYER_ON_GOAL)
        if num_players != 1:
            raise ValueError(f"board must hold one player, got {num_players}")
        return SokobanState(board)

    def cell_parts(self, cell: str) -> tuple[str, ...] | None:
        return self._things.parts(cell)

    def solve(self, state: SokobanState) -> int | None:
        """By a shortest walk to where the next push of the plan starts; of several, the first of up, right, down, left.

        Where there is no plan, since the board cannot be solved or the search has ended: what pays most at once, the
        first of several.
        """
        actions = self.legal_actions(state)
        push = self.next_push(state.board) if actions else None
        if push is None:
            return max(actions, key=lambda action: self.step(state, action).reward, default=None)
        room, boxes, player = _position(state.board, self.level.cols)
        direction, box = push
        behind = shifted(box, -room.shifts[direction])
        return direction if player == behind else room.step_to(behind, player, boxes)

    def value(self, state: SokobanState, action: int | None) -> float:
        """Minus the steps that the solver takes to solve the board, this one included; a refused answer loses one step.

        A board that the solver has no plan for counts rows * cols steps more than the one before this action.
        """
        steps = self._num_steps(state.board)
        if action is None or steps is None:
            return -1.0 - (steps or 0)
        after = self._num_steps(self.step(state, action).state.board)
        return -1.0 - (steps + self.level.rows * self.level.cols if after is None else after)

    def explain(self, state: SokobanState, action: int) -> str:
        """The next push of the solver's plan, if there is one; where the player is, which way it goes, what is there.

        " push (3, 4) up player (4, 2) right - (4, 3)"; " push (3, 4) up player (4, 4) up box (3, 4) goal (2, 4)".
        """
        board, cols, player = state.board, self.level.cols, _player(state.board)
        ahead = [self._next[player][action]]
        if ahead[0] is not None and board[ahead[0]] in (BOX, BOX_ON_GOAL):
            ahead.append(self._next[ahead[0]][action])
        push = self.next_push(board)
        plan = "" if push is None else f" push {divmod(push[1].bit_length() - 1, cols + 1)} {DIRECTIONS[push[0]]}"
        there = [" edge" if cell is None else f" {WORDS[board[cell]]} {divmod(cell, cols)}" for cell in ahead]
        return f"{plan} player {divmod(player, cols)} {DIRECTIONS[action]}{''.join(there)}"

    def reason(self, state: SokobanState, action: int, rng: np.random.Generator) -> str:
        return reason(self, state, action, rng)

    @property
    def prompt(self) -> str:
        level = self.level
        return "\n".join(
            (
                f"The picture shows a Sokoban board with {level.rows} rows and {level.cols} columns.",
                "A move takes the player to the next cell up, right, down or left. It cannot enter a wall.",
                "A box on that cell is pushed one cell on, unless a wall or another box is behind it.",
                "The edge of the board is a wall. Boxes cannot be pulled.",
                "Push every box onto a goal.",
                "First write down the board, one line per row, cells separated by |.",
                'Cells are written as " wall ", " box ", " goal ", " player ", and " - " where nothing is.',
                'On a goal, a box is written as " box on goal ", the player as " player on goal ".',
                "Then reason about which box to push next and how to get there.",
                "Then answer with up, right, down or left. Use exactly this form:",
                "<perception>board</perception><think>reasoning</think><answer>direction</answer>",
            )
        )

    def next_push(self, board: bytes) -> Push | None:
        """The first push of the plan; None where there is none, or nothing left to push."""
        room, boxes, player = _position(board, self.level.cols)
        plan = fewest_pushes(room, boxes, room.reach(player, boxes))
        return plan[0] if plan else None

    def _num_steps(self, board: bytes) -> int | None:
        """How many steps the plan takes, walks and pushes; None where there is no plan."""
        room, boxes, player = _position(board, self.level.cols)
        plan = fewest_pushes(room, boxes, room.reach(player, boxes))
        if plan is None:
            return None
        steps = 0
        for push in plan:
            behind = shifted(push[1], -room.shifts[push[0]])
            steps += room.walk(player, behind, boxes) + 1
            player, boxes = push[1], room.moved(boxes, push)
        return steps

    def _played(self, board: bytes, action: int) -> bytes | str:
        """The board after an action; where the rules refuse it, the reason."""
        if action not in range(len(DIRECTIONS)):
            return f"direction must be in 0..3, got {action}"
        if BOX not in board:
            return "all boxes are on goals"
        player, cols = _player(board), self.level.cols
        cell = self._next[player][action]
        if cell is None:
            return f"{DIRECTIONS[action]} of the player is the edge of the board"
        if board[cell] == WALL:
            return f"cell {divmod(cell, cols)} is a wall"
        after = bytearray(board)
        if board[cell] in (BOX, BOX_ON_GOAL):
            beyond = self._next[cell][action]
            if beyond is None:
                return f"the box on {divmod(cell, cols)} is at the edge of the board"
            if board[beyond] not in (FLOOR, GOAL):
                what = "wall" if board[beyond] == WALL else "box"
                return f"the box on {divmod(cell, cols)} has a {what} behind it"
            after[cell] -= BOX
            after[beyond] += BOX
        after[player] -= PLAYER
        after[cell] += PLAYER
        return bytes(after)

    def _deal(self, num_pulls: int, stay: float, rng: np.random.Generator) -> SokobanState:
        """stay: the probability that the player is not moved to a uniformly chosen cell within its reach."""
        level = self.level
        room, boxes, player = deal(level.rows, level.cols, level.num_walls, level.boxes, num_pulls, rng)
        if rng.random() >= stay:
            reach = list(cells_of(room.reach(player, boxes)))
            player = reach[int(rng.integers(len(reach)))]
        return SokobanState(_board(Deal(room, boxes, player), level.rows, level.cols))


def _player(board: bytes) -> int:
    return max(board.find(PLAYER), board.find(PLAYER_ON_GOAL))


def _board(position: Deal, rows: int, cols: int) -> bytes:
    """The inverse of `_position`."""
    room, boxes, player = position
    cells = (1 << row * (cols + 1) + col for row in range(rows) for col in range(cols))
    return bytes(
        bool(room.goals & cell) + BOX * bool(boxes & cell) + PLAYER * bool(player & cell) if room.floor & cell else WALL
        for cell in cells
    )


def _position(board: bytes, cols: int) -> Deal:
    """What stands where, as sets of cells."""
    boxes, player = _cells_with((BOX, BOX_ON_GOAL), board, cols), _cells_with((PLAYER, PLAYER_ON_GOAL), board, cols)
    return Deal(_room(board.translate(UNMOVED), cols), boxes, player)


@lru_cache(maxsize=MAX_KEPT)
def _room(unmoved: bytes, cols: int) -> Room:
    return Room(_cells_with((FLOOR, GOAL), unmoved, cols), _cells_with((GOAL,), unmoved, cols), cols)


@lru_cache(maxsize=MAX_KEPT)
def _dead_cells(unmoved: bytes, cols: int) -> tuple[int, ...]:
    """The cells, row * cols + col, from which no pushes bring a box onto any goal."""
    lost = lost_cells(_room(unmoved, cols))
    return tuple(place for place in range(len(unmoved)) if lost >> place + place // cols & 1)


def _cells_with(things: tuple[int, ...], board: bytes, cols: int) -> int:
    return sum(1 << place + place // cols for place, thing in enumerate(board) if thing in things)
