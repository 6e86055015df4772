"""Decides how boxes move in a room and how few pushes bring them onto goals, and deals rooms where that can be done.

A set of cells is a whole number: bit row * (cols + 1) + col stands for (row, col). No room has a cell in the column
beyond the last, so a shift moves a whole set by one cell without carrying it into the next row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple, TypeAlias

import numpy as np

MAX_EXPANDED = 2_000
"""Bound of the search, in positions from which every push is tried."""

MAX_MATCHED = 6
"""With more goals than that, the estimate of what is left lets boxes share a goal."""

MAX_DEALS = 1_000
MAX_KEPT = 256

Push: TypeAlias = tuple[int, int]
"""(direction as in _directions.py, the cell of the box before the push)."""

Trail: TypeAlias = tuple[Push, "Trail"] | None
"""The pushes that led to a position, the last one first."""


@dataclass(frozen=True, slots=True)
class Room:
    """What never moves. floor: the cells that are no walls, goals among them."""

    floor: int
    goals: int
    cols: int

    @property
    def shifts(self) -> tuple[int, int, int, int]:
        """By how many bits a cell moves up, right, down and left."""
        return -self.cols - 1, 1, self.cols + 1, -1

    def reach(self, player: int, boxes: int) -> int:
        """The cells that a player can walk to without pushing, its own included."""
        reached, wider = 0, player
        while wider != reached:
            reached, wider = wider, self._wider(wider, boxes)
        return reached

    def pushes(self, boxes: int, reach: int) -> Iterator[Push]:
        """Every push that a player within `reach` can make."""
        free = self.floor & ~boxes
        for direction, by in enumerate(self.shifts):
            for box in cells_of(boxes & shifted(reach, by) & shifted(free, -by)):
                yield direction, box

    def pulls(self, boxes: int, reach: int) -> Iterator[Push]:
        """Every push that can have led here: undone, the player steps back from within `reach`, and the box follows."""
        free = self.floor & ~boxes
        for direction, by in enumerate(self.shifts):
            for box in cells_of(boxes & shifted(reach, by) & shifted(free, 2 * by)):
                yield direction, shifted(box, -by)

    def moved(self, boxes: int, push: Push) -> int:
        """The boxes after a push; where they are those after it already, the boxes before it."""
        direction, box = push
        return boxes ^ box ^ shifted(box, self.shifts[direction])

    def step_to(self, end: int, player: int, boxes: int) -> int:
        """The direction of the first step of a shortest walk to another cell; of several, the one of lowest number."""
        nearer, walked = 0, end
        while not walked & player:
            nearer, walked = walked, self._wider(walked, boxes)
        return next(direction for direction, by in enumerate(self.shifts) if shifted(player, by) & nearer)

    def walk(self, start: int, end: int, boxes: int) -> int:
        """The steps of a shortest walk between two cells that are within reach of each other."""
        walked, steps = start, 0
        while not walked & end:
            walked, steps = self._wider(walked, boxes), steps + 1
        return steps

    def _wider(self, cells: int, boxes: int) -> int:
        """The cells and the free ones next to them."""
        down = self.cols + 1
        return cells | (cells << 1 | cells >> 1 | cells << down | cells >> down) & self.floor & ~boxes


class Deal(NamedTuple):
    """A room, its boxes, and the cell of the player."""

    room: Room
    boxes: int
    player: int


def deal(rows: int, cols: int, num_walls: int, num_boxes: int, num_pulls: int, rng: np.random.Generator) -> Deal:
    """A random room whose boxes are pulled off the goals, one pull after the other; undone, the pulls solve it.

    Walls are uniform over the cells; what they cut off from the largest part becomes wall too. Goals and the player are
    uniform over that part. A pull is uniform over those that bring the boxes where they have not been in this deal;
    where there is none, all is dealt again. The player ends where the last pull takes it.
    """
    for _ in range(MAX_DEALS):
        floor = list(cells_of(_random_floor(rows, cols, num_walls, rng)))
        if len(floor) > num_boxes:
            *goals, player = (floor[place] for place in rng.choice(len(floor), num_boxes + 1, replace=False).tolist())
            dealt = _pulled_apart(Room(sum(floor), sum(goals), cols), player, num_pulls, rng)
            if dealt is not None:
                return dealt
    raise ValueError(
        f"{MAX_DEALS} deals of {rows} x {cols} cells, {num_walls} walls and {num_boxes} boxes were stuck before "
        f"{num_pulls} pulls"
    )


@lru_cache(maxsize=MAX_KEPT)
def fewest_pushes(room: Room, boxes: int, reach: int) -> tuple[Push, ...] | None:
    """The fewest pushes that bring every box onto a goal; None where none do or MAX_EXPANDED is too few to tell.

    A* (Hart, Nilsson and Raphael 1968) over the boxes and the reach of the player; walks cost nothing. What is left is
    estimated by `_Estimate`, which never says too much. Of positions that look as good, the one with least left.
    """
    estimate, ages = _Estimate(room), count()
    queue: list[tuple[int, int, int, int, int, Trail]] = []

    def add(boxes: int, player: int, num_pushes: int, trail: Trail) -> None:
        left = estimate(boxes)
        if left is not None:
            heappush(queue, (num_pushes + left, left, next(ages), boxes, player, trail))

    add(boxes, reach, 0, None)
    expanded: set[tuple[int, int]] = set()
    while queue and len(expanded) < MAX_EXPANDED:
        total, left, _, boxes, player, trail = heappop(queue)
        if not left:
            return _in_order(trail)
        reach = room.reach(player, boxes)
        if (boxes, reach) not in expanded:
            expanded.add((boxes, reach))
            for push in room.pushes(boxes, reach):
                add(room.moved(boxes, push), push[1], total - left + 1, (push, trail))
    return None


def lost_cells(room: Room) -> int:
    """The cells from which no pushes bring a box onto any goal, wherever the player is."""
    return room.floor & ~sum({cell for num_pushes in _pushes_to_goals(room) for cell in num_pushes})


def cells_of(cells: int) -> Iterator[int]:
    """The sets of one cell that make up a set, in reading order."""
    while cells:
        cell = cells & -cells
        yield cell
        cells ^= cell


def shifted(cells: int, by: int) -> int:
    """The cells moved by that many bits. Those that leave the board at the top are gone; `floor` masks the others."""
    return cells << by if by > 0 else cells >> -by


class _Estimate:
    """How many pushes the boxes need at least: the cheapest way to give each a goal of its own, as if it were alone.

    None where there is none: then no pushes solve it.
    """

    def __init__(self, room: Room) -> None:
        self._num_pushes = _pushes_to_goals(room)
        self._kept: dict[int, int | None] = {}

    def __call__(self, boxes: int) -> int | None:
        if boxes not in self._kept:
            self._kept[boxes] = self._cheapest(boxes)
        return self._kept[boxes]

    def _cheapest(self, boxes: int) -> int | None:
        """Takes box after box; keeps the least for every set of goals that are given away."""
        shared = len(self._num_pushes) > MAX_MATCHED
        least = {0: 0}
        for box in cells_of(boxes):
            options = [(1 << goal, more[box]) for goal, more in enumerate(self._num_pushes) if box in more]
            longer: dict[int, int] = {}
            for given, num in least.items():
                for goal, more in options:
                    if not given & goal:
                        now = given if shared else given | goal
                        longer[now] = min(num + more, longer.get(now, num + more))
            least = longer
        return min(least.values(), default=None)


@lru_cache(maxsize=MAX_KEPT)
def _pushes_to_goals(room: Room) -> tuple[Mapping[int, int], ...]:
    """For each goal: the fewest pushes from each cell that bring a lone box there, for a player who can be anywhere.

    Cells from which none do are left out.
    """
    tables = []
    for goal in cells_of(room.goals):
        table: dict[int, int] = {}
        num_pushes, cells = 0, goal
        while cells:
            table |= dict.fromkeys(cells_of(cells), num_pushes)
            before = 0
            for by in room.shifts:
                before |= shifted(cells, -by) & room.floor & shifted(room.floor, by)
            num_pushes, cells = num_pushes + 1, before & ~sum(table)
        tables.append(table)
    return tuple(tables)


def _in_order(trail: Trail) -> tuple[Push, ...]:
    pushes = []
    while trail is not None:
        push, trail = trail
        pushes.append(push)
    return tuple(reversed(pushes))


def _random_floor(rows: int, cols: int, num_walls: int, rng: np.random.Generator) -> int:
    """The largest part of a board with walls on uniformly chosen cells; of several, the first."""
    board = [1 << row * (cols + 1) + col for row in range(rows) for col in range(cols)]
    walls = set(rng.choice(len(board), num_walls, replace=False).tolist())
    left = sum(cell for place, cell in enumerate(board) if place not in walls)
    whole, parts = Room(left, 0, cols), [0]
    while left:
        parts.append(whole.reach(left & -left, boxes=0))
        left &= ~parts[-1]
    return max(parts, key=int.bit_count)


def _pulled_apart(room: Room, player: int, num_pulls: int, rng: np.random.Generator) -> Deal | None:
    """The room after random pulls; None where none of those the player can make is new."""
    boxes = room.goals
    seen = {boxes}
    for _ in range(num_pulls):
        pulls = [pull for pull in room.pulls(boxes, room.reach(player, boxes)) if room.moved(boxes, pull) not in seen]
        if not pulls:
            return None
        direction, box = pull = pulls[int(rng.integers(len(pulls)))]
        boxes, player = room.moved(boxes, pull), shifted(box, -room.shifts[direction])
        seen.add(boxes)
    return Deal(room, boxes, player)
