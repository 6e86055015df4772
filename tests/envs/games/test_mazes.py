from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs.games._mazes import FREE, WALL, distances, random_maze, shortest_way

odd = st.integers(1, 6).map(lambda half: 2 * half + 1)
seeds = st.integers(0, 2**32)


def ways(cells: bytes, cols: int) -> set[tuple[int, int]]:
    """Every pair of free cells that lie side by side."""
    free = {divmod(cell, cols) for cell, what in enumerate(cells) if what == FREE}
    down = {((row, col), (row + 1, col)) for row, col in free if (row + 1, col) in free}
    right = {((row, col), (row, col + 1)) for row, col in free if (row, col + 1) in free}
    return {(a[0] * cols + a[1], b[0] * cols + b[1]) for a, b in down | right}


def relaxed(cells: bytes, cols: int, end: int) -> dict[int, int]:
    """Distances by Bellman and Ford's rounds."""
    found, edges = {end: 0}, ways(cells, cols)
    for _ in cells:
        for a, b in [*edges, *((b, a) for a, b in edges)]:
            if a in found and found[a] + 1 < found.get(b, len(cells)):
                found[b] = found[a] + 1
    return found


@settings(max_examples=60, deadline=None)
@given(odd, odd, seeds)
def test_every_maze_is_a_tree_that_joins_all_rooms(rows: int, cols: int, seed: int) -> None:
    cells = random_maze(rows, cols, 0, np.random.default_rng(seed))
    free = [cell for cell, what in enumerate(cells) if what == FREE]
    rooms = {row * cols + col for row in range(0, rows, 2) for col in range(0, cols, 2)}
    assert rooms <= set(free) and set(cells) <= {FREE, WALL}
    assert set(distances(cells, cols, 0)) == set(free)
    assert len(ways(cells, cols)) == len(free) - 1


def test_mazes_are_uniform() -> None:
    # 2 x 3 rooms have 7 walls between them, and a tree leaves 2. Of the 21 pairs of walls, 4 shut in one of the corner
    # rooms, and 2 cut off the left or the right pair of rooms: 15 trees, 100 draws each.
    counts = Counter(random_maze(3, 5, 0, np.random.default_rng(seed)) for seed in range(1500))
    assert len(counts) == 15
    assert all(60 < count < 140 for count in counts.values())


@pytest.mark.parametrize(("loops", "opened"), [(0, 0), (25, 4), (50, 8), (100, 16)])
def test_loops_open_a_share_of_the_walls_that_are_left(loops: int, opened: int) -> None:
    # 5 x 5 rooms have 40 walls between them, a tree opens 24.
    cells = random_maze(9, 9, loops, np.random.default_rng(3))
    assert cells.count(FREE) == 25 + 24 + opened
    assert all(cells[row * 9 + col] == WALL for row in range(1, 9, 2) for col in range(1, 9, 2))


@settings(max_examples=30, deadline=None)
@given(odd, odd, st.integers(0, 100), seeds)
def test_distances_and_ways_are_shortest(rows: int, cols: int, loops: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = random_maze(rows, cols, loops, rng)
    start, end = rng.choice([cell for cell, what in enumerate(cells) if what == FREE], size=2).tolist()
    to_go = distances(cells, cols, end)
    assert to_go == relaxed(cells, cols, end)
    assert list(to_go.values()) == sorted(to_go.values())
    steps = list(shortest_way(cells, cols, start, end))
    assert len(steps) == to_go[start]
    moves = {-cols: 0, 1: 1, cols: 2, -1: 3}
    for (before, cell), (direction, _) in zip(pairwise([start, *(cell for _, cell in steps)]), steps, strict=True):
        assert moves[cell - before] == direction


def test_of_two_shortest_ways_the_first_direction_is_taken() -> None:
    # 0 1 2    Both ways from 6 to 2 have four steps; up has the lowest number.
    # 3 # 5
    # 6 7 8
    cells = bytes([0, 0, 0, 0, 1, 0, 0, 0, 0])
    assert list(shortest_way(cells, 3, 6, 2)) == [(0, 3), (0, 0), (1, 1), (1, 2)]
    assert list(shortest_way(cells, 3, 2, 2)) == []


def test_what_is_cut_off_has_no_distance() -> None:
    # 0 # 2
    # 3 # ?    (unknown cells are not free)
    cells = bytes([0, 1, 0, 0, 1, 2])
    assert distances(cells, 3, 0) == {0: 0, 3: 1}
    assert distances(cells, 3, 2) == {2: 0}
