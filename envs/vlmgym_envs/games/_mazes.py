"""Decides how mazes are made and which ways through them are shortest.

A maze is bytes [rows * cols], FREE, WALL or UNKNOWN for each cell; the edge of the board is a wall. Rows and columns
are odd in number: rooms lie where both are even, counted from 0, and between two rooms is one cell, a wall or a way.
"""

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

import numpy as np

from vlmgym_envs.games._directions import neighbours

FREE, WALL, UNKNOWN = range(3)

MAX_KEPT = 256
"""Tables of distances that are kept: a game, and all siblings of a group, ask again and again for the same one."""


def random_maze(rows: int, cols: int, loops: int, rng: np.random.Generator) -> bytes:
    """Uniform over the perfect mazes: one way between any two cells. Then `loops` percent of its walls are opened.

    The algorithm is Wilson's (1996): from each room in turn a random walk runs until it meets the maze made so far, and
    is added to it without its loops. Only a wall between two rooms can be opened.
    """
    doors = _doors(rows, cols)
    cells = bytearray([WALL]) * (rows * cols)
    cells[0] = FREE
    numbers = _numbers(rng)
    for room in doors:
        here, leave = room, {}
        while cells[here] == WALL:
            leave[here] = doors[here][int(next(numbers) * len(doors[here]))]
            here = leave[here][1]
        here = room
        while cells[here] == WALL:
            between, beyond = leave[here]
            cells[here] = cells[between] = FREE
            here = beyond
    walls = sorted({door for sides in doors.values() for door, _ in sides if cells[door] == WALL})
    for number in rng.choice(len(walls), size=round(len(walls) * loops / 100), replace=False).tolist():
        cells[walls[number]] = FREE
    return bytes(cells)


@lru_cache(maxsize=MAX_KEPT)
def distances(cells: bytes, cols: int, end: int) -> Mapping[int, int]:
    """How many steps each free cell is from `end`, nearest first; cells that are cut off from it are left out."""
    near = neighbours(len(cells) // cols, cols)
    found = {end: 0}
    reached = [end]
    for cell in reached:  # grows on the way
        for other in near[cell]:
            if other is not None and other not in found and cells[other] == FREE:
                found[other] = found[cell] + 1
                reached.append(other)
    return found


def shortest_way(cells: bytes, cols: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(direction, cell it leads to) of each step; of directions that are as good, the one with the lowest number.

    `start` must be among the `distances` to `end`.
    """
    to_go = distances(cells, cols, end)
    near = neighbours(len(cells) // cols, cols)
    while start != end:
        left = to_go[start] - 1
        step = next((way, cell) for way, cell in enumerate(near[start]) if cell is not None and to_go.get(cell) == left)
        yield step
        start = step[1]


@cache
def _doors(rows: int, cols: int) -> Mapping[int, tuple[tuple[int, int], ...]]:
    """For each room, in reading order, the cells between it and the next rooms, each with the room beyond."""
    near = neighbours(rows, cols)
    rooms = [row * cols + col for row in range(0, rows, 2) for col in range(0, cols, 2)]
    return {
        room: tuple(
            (door, beyond)
            for way, door in enumerate(near[room])
            if door is not None and (beyond := near[door][way]) is not None
        )
        for room in rooms
    }


def _numbers(rng: np.random.Generator) -> Iterator[float]:
    """Uniform numbers in 0..1, drawn in blocks since a single draw costs as much as a step of the walk."""
    while True:
        yield from rng.random(256).tolist()
