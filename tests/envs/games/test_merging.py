from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs.games import _merging
from vlmgym_envs.games._merging import Moves, Slide, Slides, points_so_far, slide, with_new_tile
from vlmgym_envs.games._stream import new_stream

UP, RIGHT, DOWN, LEFT = range(4)

exponents = st.integers(0, 17)
quick = settings(max_examples=30, deadline=None)


@pytest.mark.parametrize(
    ("line", "slid"),
    [
        ([1, 1, 1, 1], Slide(bytes([2, 2, 0, 0]), 8, (1, 1))),  # 2 2 2 2 -> 4 4
        ([2, 1, 1, 0], Slide(bytes([2, 2, 0, 0]), 4, (1,))),  # 4 2 2 - -> 4 4, not 8
        ([1, 1, 2, 0], Slide(bytes([2, 2, 0, 0]), 4, (1,))),  # 2 2 4 - -> 4 4, not 8
        ([1, 1, 1, 0], Slide(bytes([2, 1, 0, 0]), 4, (1,))),  # the pair nearest to the edge merges
        ([0, 3, 0, 3], Slide(bytes([4, 0, 0, 0]), 16, (3,))),  # across empty cells
        ([1, 2, 1, 2], Slide(bytes([1, 2, 1, 2]), 0, ())),
        ([3, 1, 3, 0], Slide(bytes([3, 1, 3, 0]), 0, ())),  # not across a tile
        ([0, 0, 0, 5], Slide(bytes([5, 0, 0, 0]), 0, ())),
        ([6, 6, 7, 7], Slide(bytes([7, 8, 0, 0]), 128 + 256, (6, 7))),  # pays in full above 127
        ([16, 16, 0, 0], Slide(bytes([17, 0, 0, 0]), 131072, (16,))),
        ([17, 17, 0, 0], Slide(bytes([17, 17, 0, 0]), 0, ())),  # the greatest tile does not merge
        ([17, 17, 1, 1], Slide(bytes([17, 17, 2, 0]), 4, (1,))),
        ([0, 0], Slide(bytes([0, 0]), 0, ())),
    ],
)
def test_lines_worked_out_by_hand(line: list[int], slid: Slide) -> None:
    assert slide(bytes(line)) == slid


@quick
@given(st.lists(exponents, min_size=2, max_size=8))
def test_a_slide_keeps_the_sum_and_leaves_no_gap(line: list[int]) -> None:
    after, points, merged = slide(bytes(line))
    assert len(after) == len(line)
    assert sum(1 << tile for tile in after if tile) == sum(1 << tile for tile in line if tile)
    assert b"\0" not in after.rstrip(b"\0")
    assert after.count(0) == line.count(0) + len(merged)
    assert points == sum(2 * 2**tile for tile in merged)


def test_the_lines_that_are_kept_are_bounded_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_merging, "MAX_LINES_KEPT", 3)
    slides = Slides()
    for tile in [*range(1, 9), 1, 8]:
        assert slides[bytes([tile, tile])] == slide(bytes([tile, tile]))
        assert len(slides) <= 3


BOARD = bytes([1, 0, 1]) + bytes([1, 2, 3])
"""2 rows, 3 cols: 2 - 2 over 2 4 8."""


@pytest.mark.parametrize(
    ("direction", "after", "points"),
    [
        (UP, [2, 2, 1, 0, 0, 3], 4),
        (RIGHT, [0, 0, 2, 1, 2, 3], 4),
        (DOWN, [0, 0, 1, 2, 2, 3], 4),
        (LEFT, [2, 0, 0, 1, 2, 3], 4),
    ],
)
def test_a_board_that_is_not_square_moves_each_way(direction: int, after: list[int], points: int) -> None:
    moves = Moves(2, 3)
    assert moves.after(BOARD, direction) == bytes(after)
    assert moves.points(BOARD, direction) == points


@quick
@given(st.integers(2, 8), st.integers(2, 8), st.data())
def test_directions_mirror_each_other(rows: int, cols: int, data: st.DataObject) -> None:
    board = bytes(data.draw(st.lists(st.integers(0, 3), min_size=rows * cols, max_size=rows * cols)))
    moves, turned = Moves(rows, cols), Moves(cols, rows)
    across = b"".join(board[col::cols] for col in range(cols))
    for back, forth, other in ((LEFT, RIGHT, UP), (UP, DOWN, LEFT)):
        assert moves.after(board[::-1], forth) == moves.after(board, back)[::-1]
        assert moves.points(board[::-1], forth) == moves.points(board, back) == turned.points(across, other)
    assert moves.after(board, UP) == b"".join(turned.after(across, LEFT)[row::rows] for row in range(rows))


@quick
@given(st.integers(2, 5), st.integers(2, 5), st.data())
def test_a_move_is_legal_where_a_tile_moves(rows: int, cols: int, data: st.DataObject) -> None:
    board = bytes(data.draw(st.lists(st.integers(0, 3), min_size=rows * cols, max_size=rows * cols)))
    moves = Moves(rows, cols)
    legal = [direction for direction in range(4) if moves.after(board, direction) != board]
    assert moves.legal(board) == legal
    assert moves.any_legal(board) == bool(legal)


def test_boards_without_a_legal_move() -> None:
    moves = Moves(2, 2)
    assert moves.legal(bytes([1, 2, 2, 1])) == [] and not moves.any_legal(bytes([1, 2, 2, 1]))
    assert moves.legal(bytes(4)) == [] and not moves.any_legal(bytes(4))
    assert moves.legal(bytes([17, 17, 17, 17])) == [] and not moves.any_legal(bytes([17, 17, 17, 17]))
    assert moves.legal(bytes([1, 2, 1, 3])) == [UP, DOWN]
    assert moves.legal(bytes([1, 1, 2, 3])) == [RIGHT, LEFT]
    assert moves.legal(bytes([1, 0, 0, 0])) == [RIGHT, DOWN]


def test_new_tiles_are_uniform_over_the_empty_cells_and_a_tenth_are_fours() -> None:
    board = bytes([1, 0, 0, 3, 0, 0, 0, 0, 2, 0])
    empty = [cell for cell, tile in enumerate(board) if not tile]
    cells, tiles = Counter[int](), Counter[int]()
    for seed in range(7000):
        after, _ = with_new_tile(board, new_stream(seed), four_percent=10)
        changed = [cell for cell in range(10) if after[cell] != board[cell]]
        assert len(changed) == 1
        cells[changed[0]] += 1
        tiles[after[changed[0]]] += 1
    assert sorted(cells) == empty and sorted(tiles) == [1, 2]
    assert sum((count - 1000) ** 2 / 1000 for count in cells.values()) < 22.5  # chi-square, 6 degrees: p below 0.001
    assert (tiles[2] - 700) ** 2 / 700 + (tiles[1] - 6300) ** 2 / 6300 < 10.9  # 1 degree: p below 0.001


@pytest.mark.parametrize(("four_percent", "tile"), [(0, 1), (100, 2)])
def test_all_new_tiles_can_be_of_one_kind(four_percent: int, tile: int) -> None:
    assert {with_new_tile(bytes(1), new_stream(seed), four_percent)[0][0] for seed in range(200)} == {tile}


def test_the_stream_decides_the_new_tile_and_goes_on() -> None:
    after, stream = with_new_tile(bytes(16), new_stream(1), 10)
    assert with_new_tile(bytes(16), new_stream(1), 10) == (after, stream)
    assert len({with_new_tile(bytes(16), new_stream(seed), 10) for seed in range(50)}) == 50
    assert stream != new_stream(1)


def test_points_so_far_of_boards_worked_out_by_hand() -> None:
    assert points_so_far(bytes([1, 2, 0, 0]), num_tiles=2) == 0  # a 2 and a 4 appeared
    assert points_so_far(bytes([2, 0, 0, 0]), num_tiles=2) == 4  # 2 + 2
    assert points_so_far(bytes([3, 0, 0, 0]), num_tiles=4) == 16  # 4 + 4 + 8
    assert points_so_far(bytes([3, 0, 0, 0]), num_tiles=2) == 8  # two 4s appeared


@quick
@given(st.integers(0, 2**32), st.integers(0, 100))
def test_points_so_far_are_those_of_the_game(seed: int, four_percent: int) -> None:
    moves, board, stream, points = Moves(3, 4), bytes(12), new_stream(seed), 0
    for num_tiles in range(1, 40):
        board, stream = with_new_tile(board, stream, four_percent)
        assert points_so_far(board, num_tiles) == points
        legal = moves.legal(board)
        if not legal:
            break
        direction = legal[num_tiles % len(legal)]
        points += moves.points(board, direction)
        board = moves.after(board, direction)
