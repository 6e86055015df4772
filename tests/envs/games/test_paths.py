from collections import deque
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs.games._paths import Paths, equal_pairs

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))

NEVER = 3
# "A" marks the two tiles in question, "X" other tiles, "." an empty cell. Behind it the fewest turns of a path between
# the two, found by hand; NEVER where it takes more than two.
BOARDS = {
    "side by side": ("XXXX XAAX XXXX", 0),
    "straight": ("XXXXXX XA..AX XXXXXX", 0),
    "straight, blocked": ("XXXXXX XA.XAX XXXXXX", NEVER),
    "straight down": ("XXX XAX X.X XAX XXX", 0),
    "one turn": ("XXXXX XA..X XXX.X XXXAX XXXXX", 1),
    "one turn, corner taken": ("XXXXX XA.XX XXX.X XXXAX XXXXX", NEVER),
    "one turn, at the other corner": ("XXXXX XAX.X X.X.X X..AX XXXXX", 1),
    "one turn, next to it": ("XXXX XA.X XXAX XXXX", 1),
    "two turns, where one would do but for a tile on the way": ("XXXXX XA..X XX.XX XX.AX XXXXX", 2),
    "two turns, as an S": ("XXXXX XA.XX XX.XX XX.AX XXXXX", 2),
    "two turns, as a U": ("XXXXX XA.XX XX.XX XA.XX XXXXX", 2),
    "three turns": ("XXXXX XA.XX XX..X XXXAX XXXXX", NEVER),
    "four turns": ("XXXXXX XA.XXX XX..XX XXX.AX XXXXXX", NEVER),
    "diagonal neighbours": ("XXXX XAXX XXAX XXXX", NEVER),
    "outside, along one edge": ("XXXX AXXA", 2),
    "outside, along an upright edge": ("AXX XXX AXX", 2),
    "outside, from the top to the left edge is three turns": ("XAX XXX AXX", NEVER),
    "outside, around a corner cell": ("AX XX XA", NEVER),
    "outside, from top to bottom is four turns": ("XAX XXX XAX", NEVER),
    "outside, after a step inside": ("X..X XAXX XXXA", NEVER),
    "outside, after leaving through the top": ("X.XA XAXX XXXX", 2),
}


@pytest.mark.parametrize(("drawing", "fewest_turns"), BOARDS.values(), ids=BOARDS)
def test_paths_found_by_hand(drawing: str, fewest_turns: int) -> None:
    rows = drawing.split()
    first, second = [index for index, tile in enumerate("".join(rows)) if tile == "A"]
    board = bytes(0 if tile == "." else 1 for tile in "".join(rows))
    for turns in (0, 1, 2):
        paths = Paths(board, len(rows), len(rows[0]), turns)
        assert paths.connects(first, second) is (fewest_turns <= turns)
        assert paths.connects(second, first) is (fewest_turns <= turns)


def reachable(board: bytes, rows: int, cols: int, start: int, most_turns: int) -> set[int]:
    """The tiles that a breadth-first search over (cell, direction, turns) reaches, on the board and its ring."""
    row, col = divmod(start, cols)
    queue = deque((row, col, direction, 0) for direction in range(4))
    seen, found = set(queue), set()
    while queue:
        row, col, direction, turns = queue.popleft()
        row, col = row + STEPS[direction][0], col + STEPS[direction][1]
        if not (-1 <= row <= rows and -1 <= col <= cols):
            continue
        if 0 <= row < rows and 0 <= col < cols and board[row * cols + col]:
            found.add(row * cols + col)
            continue
        for next_direction in range(4):
            state = (row, col, next_direction, turns + (next_direction != direction))
            if state[3] <= most_turns and state not in seen:
                seen.add(state)
                queue.append(state)
    return found - {start}


@settings(max_examples=120, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2))
def test_paths_agree_with_a_breadth_first_search(data: st.DataObject, rows: int, cols: int, turns: int) -> None:
    tiles = st.sampled_from([0, 0, 1, 2])
    board = bytes(data.draw(st.lists(tiles, min_size=rows * cols, max_size=rows * cols)))
    paths = Paths(board, rows, cols, turns)
    places = [cell for cell, tile in enumerate(board) if tile]
    for first in places:
        found = reachable(board, rows, cols, first, turns)
        assert [cell for cell in places if cell != first and paths.connects(first, cell)] == sorted(found)


def test_pairs_are_listed_in_reading_order() -> None:
    board = bytes([1, 2, 1, 2, 2, 1])
    assert equal_pairs(board) == [(0, 2), (0, 5), (1, 3), (1, 4), (2, 5), (3, 4)]
    paths = Paths(board, 2, 3)
    assert paths.pairs() == [pair for pair in equal_pairs(board) if paths.connects(*pair)] != []
    assert paths.any_pair()


def test_without_a_connected_pair() -> None:
    paths = Paths(bytes([1, 2, 2, 1]), 2, 2)
    assert not paths.any_pair() and paths.pairs() == []
    assert not any(paths.connects(*pair) for pair in combinations((0, 3), 2))
