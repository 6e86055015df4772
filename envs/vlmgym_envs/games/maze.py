"""Maze: walks to the goal and sees all of the maze, or only what is near.

| State  | cells, bytes [rows * cols]: 0 free, 1 wall, 2 unknown; player; goal; shown, bytes [rows * cols]: 1 if shown |
| Action | 0 up, 1 right, 2 down, 3 left: one step to a free cell                                                      |
| Reward | 1.0 for a step that comes nearer to the goal, -1.0 for one away from it: in the whole maze, shown or not    |
| Ends   | at the goal: info["reached"] is True                                                                        |
| Solver | the first step of a shortest way through the whole maze, shown or not; exact                                |
| Source | ours, not in arXiv 2505.13426; perfect mazes by Wilson's algorithm (1996), see _mazes.py                    |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.core import Step, Teacher
from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._directions import DIRECTIONS, DirectionGame, neighbours
from vlmgym_envs.games._mazes import FREE, UNKNOWN, WALL, distances, random_maze, shortest_way
from vlmgym_envs.games._things import ARTS, Things
from vlmgym_envs.level import BoardLevel, choice, knob
from vlmgym_envs.reasons.mazes import Way, reason

WORDS = ("-", "wall", "?", "goal", "player", "player on goal")
GOAL, PLAYER, PLAYER_ON_GOAL = range(3, 6)


@dataclass(frozen=True, slots=True)
class MazeLevel(BoardLevel):
    """Perception: art and the knobs of `BoardLevel`. Reasoning: rows, cols, loops, view, remember.

    rows, cols: odd, as in _mazes.py. loops: walls opened beyond a perfect maze, in percent of its walls between rooms.
    view: how many rows and columns away the player sees, 0 for everything. remember: whether what it saw stays visible.
    """

    tile_px: int = knob(56, 8, 128)
    border_px: int = knob(0, 0, 128)
    art: str = choice("plain", tuple(ARTS))
    rows: int = knob(11, 3, 41)
    cols: int = knob(11, 3, 41)
    loops: int = knob(0, 0, 100)
    view: int = knob(0, 0, 40)
    remember: bool = choice(False, (True, False))

    def check(self) -> None:
        for name in ("rows", "cols"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, got {getattr(self, name)}")


PAPER = MazeLevel(view=3, remember=True)
LARGE = PAPER.override({"rows": 21, "cols": 21, "tile_px": 28, "loops": 10})
HARD_TO_READ = {"art": "yard", "jitter": 10, "noise": 32, "distractors": 12}


@dataclass(frozen=True, slots=True)
class MazeState:
    """See the table of this module. goal: None where a text did not show it."""

    cells: bytes
    player: int
    goal: int | None
    shown: bytes


class Maze(DirectionGame[MazeLevel, MazeState]):
    """The table of this module says what each method works with.

    levels: the paper has no maze; `paper` is the standard size that every game has.
    """

    score: ClassVar[Literal["reward_sum", "positive_steps"]] = "reward_sum"
    level_class = MazeLevel
    value_unit = "steps"
    levels: ClassVar[Mapping[str, MazeLevel]] = {
        "tiny": MazeLevel(rows=5, cols=5, tile_px=16),
        "small": MazeLevel(rows=7, cols=7),
        "paper": PAPER,
        "noisy": PAPER.override(HARD_TO_READ),
        "large": LARGE,
        "hard": LARGE.override(HARD_TO_READ),
    }

    def __init__(self, level: MazeLevel, level_name: str = "custom") -> None:
        super().__init__(level, level_name)
        self._things = Things(WORDS)
        self._painter = BoardPainter(level.rows, level.cols, self._things.atlas(level.art, level.tile_px), level)
        self._next = neighbours(level.rows, level.cols)
        rows, cols = np.divmod(np.arange(level.rows * level.cols), level.cols)
        apart = np.maximum(abs(rows[:, None] - rows), abs(cols[:, None] - cols))
        self._views = apart <= level.view if level.view else np.ones_like(apart, dtype=bool)

    def init(self, seed: int) -> MazeState:
        """The goal is uniform over the rooms, the player over the cells that are farthest from it."""
        cells, goal, start = self._deal(np.random.default_rng(seed))
        return MazeState(cells, start, goal, self._look(start))

    def mid_game(self, seed: int) -> MazeState:
        """A fresh start whose player has gone a shortest way that spares the goal, to another cell.

        How far that cell is from the goal is uniform on 1..farthest; the cell is uniform over those that far away.
        """
        level, rng = self.level, np.random.default_rng(seed)
        cells, goal, start = self._deal(rng)
        to_go = distances(cells, level.cols, goal)
        without_goal = cells[:goal] + bytes([WALL]) + cells[goal + 1 :]
        num_left = int(rng.integers(1, to_go[start] + 1))
        player = _any([cell for cell in distances(without_goal, level.cols, start) if to_go[cell] == num_left], rng)
        shown = self._look(player)
        if level.remember:
            for _, cell in shortest_way(without_goal, level.cols, player, start):
                shown = self._look(cell, shown)
        return MazeState(cells, player, goal, shown)

    def legal_actions(self, state: MazeState) -> list[int]:
        """In the order up, right, down, left."""
        if state.player == state.goal:
            return []
        return [way for way, cell in enumerate(self._next[state.player]) if cell is not None and not state.cells[cell]]

    def step(self, state: MazeState, action: int) -> Step[MazeState]:
        reason = self._refusal(state, action)
        player = None if reason else self._next[state.player][action]
        if player is None:
            return Step(state, 0.0, False, {"refused": reason})
        after = MazeState(state.cells, player, state.goal, self._look(player, state.shown))
        to_go = {} if state.goal is None else distances(state.cells, self.level.cols, state.goal)
        nearer = to_go[state.player] - to_go[player] if player in to_go else 0
        reached = player == state.goal
        return Step(after, float(nearer), reached, {"reached": reached})

    def render(self, state: MazeState) -> NDArray[np.uint8]:
        return self._painter.paint(self._board(state).reshape(self.level.rows, self.level.cols))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._painter.image_shape

    def describe(self, state: MazeState) -> str:
        """Cells " wall ", " - " (free), " ? " (not shown), " player ", " goal " joined by "|", rows by newlines."""
        return self._things.write(self._board(state).tobytes(), self.level.cols)

    def from_text(self, text: str) -> MazeState:
        """One player, at most one goal. What is written as " ? " stays unknown for good, and cannot be entered.

        All the rest is the maze, also what lies beyond the view; a level that remembers shows it.
        """
        board = self._things.read(self.cells(text), self.level.rows, self.level.cols)
        players = [cell for cell, thing in enumerate(board) if thing in (PLAYER, PLAYER_ON_GOAL)]
        goals = [cell for cell, thing in enumerate(board) if thing in (GOAL, PLAYER_ON_GOAL)]
        if len(players) != 1 or len(goals) > 1:
            raise ValueError(f"board must hold one player and at most one goal, got {len(players)} and {len(goals)}")
        cells = bytes(thing if thing in (WALL, UNKNOWN) else FREE for thing in board)
        shown = self._look(players[0], bytes(thing != UNKNOWN for thing in board))
        return MazeState(cells, players[0], goals[0] if goals else None, shown)

    def cell_parts(self, cell: str) -> tuple[str, ...] | None:
        return self._things.parts(cell)

    def solve(self, state: MazeState) -> int | None:
        """Of steps that are as good, the first of up, right, down, left.

        Where the goal is unknown or cut off: towards the nearest free cell beside an unknown one, else any legal step.
        """
        actions = self.legal_actions(state)
        target = self._target(state) if actions else None
        if target is None:
            return actions[0] if actions else None
        return next(shortest_way(state.cells, self.level.cols, state.player, target))[0]

    def value(self, state: MazeState, action: int | None) -> float:
        """Minus the steps to the goal, this one included, in the whole maze; a refused answer loses one step.

        0 for every action where the goal is unknown or cut off.
        """
        player = state.player if action is None else self.step(state, action).state.player
        to_go = {} if state.goal is None else distances(state.cells, self.level.cols, state.goal)
        return -1.0 - to_go[player] if player in to_go else 0.0

    def explain(self, state: MazeState, action: int) -> str:
        """The shortest way on after `action`, corner by corner, as far as the picture shows one.

        " player (4, 2) right (4, 4) up (0, 4) left (0, 2) goal"; " player (4, 2) right (4, 3) ?" where it shows none;
        " player (4, 2) up wall" for an illegal action.
        """
        cell, text = self._next[state.player][action], f" player {divmod(state.player, self.level.cols)}"
        if cell is None:
            return f"{text} {DIRECTIONS[action]} edge"
        if self._refusal(state, action) is not None:
            return f"{text} {DIRECTIONS[action]} {WORDS[self._board(state)[cell]]}"
        way = self.way_on(state, action)
        legs = way.legs if way else [(DIRECTIONS[action], divmod(cell, self.level.cols))]
        return text + "".join(f" {direction} {corner}" for direction, corner in legs) + (" goal" if way else " ?")

    def way_on(self, state: MazeState, action: int) -> Way | None:
        """A shortest way to the goal that begins with a legal action; None where the picture shows none."""
        cols, seen, cell = self.level.cols, self.from_text(self.describe(state)), self._next[state.player][action]
        to_go = {} if seen.goal is None else distances(seen.cells, cols, seen.goal)
        if seen.goal is None or cell is None or cell not in to_go:
            return None
        steps = [(action, cell), *shortest_way(seen.cells, cols, cell, seen.goal)]
        legs = [(way, list(group)[-1][1]) for way, group in groupby(steps, key=lambda step: step[0])]
        return Way([(DIRECTIONS[way], divmod(corner, cols)) for way, corner in legs], len(steps), to_go[seen.player])

    def reason(self, state: MazeState, action: int, rng: np.random.Generator) -> str:
        return reason(self, state, action, rng)

    @property
    def prompt(self) -> str:
        level = self.level
        lines = [
            f"The picture shows a maze with {level.rows} rows and {level.cols} columns.",
            "A move takes the player to the next cell up, right, down or left. It cannot enter a wall.",
            "Bring the player to the goal with as few moves as possible.",
        ]
        if level.view:
            seen_before = ", and those seen before" if level.remember else ""
            lines.append(f"Only cells up to {level.view} rows and columns from the player are shown{seen_before}.")
            lines.append('A cell that is not shown is written as " ? ".')
        lines += [
            "First write down the board, one line per row, cells separated by |.",
            'The other cells are written as " wall ", " player ", " goal ", and " - " where nothing is.',
            "Then reason about which way to go.",
            "Then answer with up, right, down or left. Use exactly this form:",
            "<perception>board</perception><think>reasoning</think><answer>direction</answer>",
        ]
        return "\n".join(lines)

    @property
    def teachers(self) -> Mapping[str, Teacher[MazeState, int]]:
        """Adds seen_only, the solver with nothing but the picture to go by: it explores until it sees the goal."""
        return {**super().teachers, "seen_only": self._seen_only}

    def _seen_only(self, state: MazeState, rng: np.random.Generator) -> int:
        return self._playable(state, self.solve(self.from_text(self.describe(state))))

    def _target(self, state: MazeState) -> int | None:
        """Where the solver goes from a cell that is not the goal; None where there is nothing to go for."""
        cells, cols = state.cells, self.level.cols
        if state.goal is not None and state.player in distances(cells, cols, state.goal):
            return state.goal
        for cell in distances(cells, cols, state.player):
            if cell != state.player and any(near is not None and cells[near] == UNKNOWN for near in self._next[cell]):
                return cell
        return None

    def _refusal(self, state: MazeState, action: int) -> str | None:
        """Why the rules refuse an action; None for a legal one."""
        if action not in range(len(DIRECTIONS)):
            return f"direction must be in 0..3, got {action}"
        if state.player == state.goal:
            return "the player is at the goal"
        cell = self._next[state.player][action]
        if cell is None:
            return f"{DIRECTIONS[action]} of the player is the edge of the board"
        if state.cells[cell] != FREE:
            return f"cell {divmod(cell, self.level.cols)} is {'a wall' if state.cells[cell] == WALL else 'unknown'}"
        return None

    def _look(self, player: int, before: bytes | None = None) -> bytes:
        """What is shown from a cell: its view and, where the level remembers, what was shown before."""
        shown: NDArray[np.bool_] = self._views[player]
        if before is not None and self.level.remember:
            shown = shown | np.frombuffer(before, dtype=bool)
        return shown.tobytes()

    def _board(self, state: MazeState) -> NDArray[np.uint8]:
        """What the picture shows on each cell, [rows * cols], indices into WORDS."""
        board = np.frombuffer(state.cells, dtype=np.uint8).copy()
        if state.goal is not None:
            board[state.goal] = GOAL
        board[state.player] = PLAYER_ON_GOAL if state.player == state.goal else PLAYER
        board[~np.frombuffer(state.shown, dtype=bool)] = UNKNOWN
        return board

    def _deal(self, rng: np.random.Generator) -> tuple[bytes, int, int]:
        """A maze, its goal, and a cell that is farthest from it."""
        level = self.level
        cells = random_maze(level.rows, level.cols, level.loops, rng)
        goal = 2 * int(rng.integers((level.rows + 1) // 2)) * level.cols + 2 * int(rng.integers((level.cols + 1) // 2))
        to_go = distances(cells, level.cols, goal)
        farthest = max(to_go.values())
        return cells, goal, _any([cell for cell in to_go if to_go[cell] == farthest], rng)


def _any(cells: list[int], rng: np.random.Generator) -> int:
    """One of the cells, uniformly."""
    return cells[int(rng.integers(len(cells)))]
