"""Why two tiles of a Shisen-Sho board can be removed: they are equal, and here is a path."""

from itertools import pairwise
from typing import Any

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_envs.games._cells import CellPair
from vlmgym_envs.games._directions import DIRECTIONS, STEPS
from vlmgym_envs.reasons.wording import Cell, Templates, count, refusal, say

Route = list[Cell]
"""The ends of a path, and the corners between them."""

EQUAL: Templates = (
    "The tiles at {first} and {second} are both {tile}.",
    "There is a {tile} at {first} and another {tile} at {second}.",
    "{tile} at {first} matches {tile} at {second}.",
    "I see {tile} twice: at {first} and at {second}.",
)
ADJACENT: Templates = (
    "They are neighbours, so nothing lies between them.",
    "They share an edge, so the path between them is free.",
    "They stand next to each other, so a path is at hand.",
)
PATH: Templates = (
    "A path goes from {first} {legs} with {turns}, through empty cells only.",
    "From {first} I can go {legs}. All cells on the way are empty, and it has {turns}.",
    "The way from {first} is free: {legs}. It has {turns}.",
)
SO: Templates = (
    "So they can be removed, which leaves {left}.",
    "Removing them leaves {left}.",
    "The pair can go; {left} will be left.",
)


def reason(game: Game[Any, Any, CellPair], state: Any, action: CellPair, rng: np.random.Generator) -> str:
    refused = refusal(game, state, action, rng)
    cells = game.cells(game.describe(state))
    if refused is not None:
        return refused
    first, second = action
    route = shortest_route(cells, first, second)
    if abs(first[0] - second[0]) + abs(first[1] - second[1]) == 1:
        path = say(rng, ADJACENT)
    else:
        path = say(rng, PATH, first=first, legs=_legs(route, len(cells), len(cells[0])), turns=_turns(route))
    num_left = sum(game.cell_parts(cell) != () for row in cells for cell in row) - 2
    equal = say(rng, EQUAL, tile=cells[first[0]][first[1]], first=first, second=second)
    return f"{equal} {path} {say(rng, SO, left=count(num_left, 'tile'))}"


def shortest_route(cells: list[list[str]], first: Cell, second: Cell) -> Route:
    """The connection of two cells with the fewest turns, at most two, of these one of the shortest.

    It may run one cell outside the board. cells: "-" where nothing is. Errors: ValueError where there is none.
    """
    rows, cols = len(cells), len(cells[0])
    routes = [_without_repeats([first, (first[0], col), (second[0], col), second]) for col in range(-1, cols + 1)]
    routes += [_without_repeats([first, (row, first[1]), (row, second[1]), second]) for row in range(-1, rows + 1)]
    free = [route for route in routes if _is_free(cells, route)]
    if not free:
        raise ValueError(f"no path of at most two turns connects {first} and {second}")
    return min(free, key=lambda route: (len(route), _length(route)))


def _is_free(cells: list[list[str]], route: Route) -> bool:
    """Whether all cells of the route but its two ends are empty; those outside the board are."""
    *between, _ = [cell for start, end in pairwise(route) for cell in _line(start, end)]
    inside = [(row, col) for row, col in between if 0 <= row < len(cells) and 0 <= col < len(cells[0])]
    return all(cells[row][col] == "-" for row, col in inside)


def _line(start: Cell, end: Cell) -> list[Cell]:
    """The cells from `start`, without it, to `end`."""
    down, right = np.sign(end[0] - start[0]), np.sign(end[1] - start[1])
    steps = range(1, _length([start, end]) + 1)
    return [(int(start[0] + down * step), int(start[1] + right * step)) for step in steps]


def _length(route: Route) -> int:
    return sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in pairwise(route))


def _without_repeats(route: Route) -> Route:
    """Without corners that are none: where a route goes nowhere, or straight on."""
    kept = [cell for place, cell in enumerate(route) if place == 0 or cell != route[place - 1]]
    ends = (0, len(kept) - 1)
    return [cell for place, cell in enumerate(kept) if place in ends or not _is_straight(kept[place - 1 : place + 2])]


def _is_straight(three: Route) -> bool:
    return any(len({cell[axis] for cell in three}) == 1 for axis in (0, 1))


def _turns(route: Route) -> str:
    return count(len(route) - 2, "turn")


def _legs(route: Route, rows: int, cols: int) -> str:
    legs = []
    for start, end in pairwise(route):
        step = (int(np.sign(end[0] - start[0])), int(np.sign(end[1] - start[1])))
        outside = "" if 0 <= end[0] < rows and 0 <= end[1] < cols else ", outside the board"
        legs.append(f"{DIRECTIONS[STEPS.index(step)]} to {end}{outside}")
    return ", then ".join(legs)
