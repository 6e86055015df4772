import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs.games._expectimax import LOST, MAX_CELLS, Expectimax, _spread, line_value
from vlmgym_envs.games._merging import Moves

RIGHT, LEFT = 1, 3


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ([0, 0, 0, 0], 400),
        ([3, 2, 1, 0], 100),  # falls only
        ([3, 3, 2, 2], 60),  # two pairs
        ([2, 0, 2, 3], 100 + 30 - 16),  # a pair across the empty cell; falls 16, rises 16 + 65
        ([1, 2, 1, 2], -15),  # rises 15 + 15, falls 15
        ([1, 5, 1, 1], 30 - 624),  # rises 624, falls 624
    ],
)
def test_line_values_worked_out_by_hand(line: list[int], value: float) -> None:
    assert line_value(bytes(line)) == value
    assert line_value(bytes(line[::-1])) == value


def test_the_expected_value_weighs_every_tile_that_may_come() -> None:
    """4 2 - on 1 x 3 cells. With a 2, 4 2 2: left and right each leave 4 4 -, which is worth 130 for its row and 100
    for its empty column. With a 4, 4 2 4: no move is left."""
    for four_percent, value in ((0, 230), (100, LOST), (10, 0.9 * 230 + 0.1 * LOST)):
        assert Expectimax(Moves(1, 3), four_percent)._before_tile(bytes([2, 1, 0])) == pytest.approx(value)


def test_the_first_of_equally_good_moves_is_taken() -> None:
    """2 2 4: left leads to 4 4 - and right to its mirror image."""
    assert Expectimax(Moves(1, 3), 10).best(bytes([1, 1, 2])) == RIGHT


def test_a_move_that_the_next_tile_may_punish_is_not_taken() -> None:
    """2 2 over 4 8: right leaves - 4 over 4 8, where a 2 ends the game; left 4 - over 4 8, where nothing does."""
    assert Expectimax(Moves(2, 2), 10).best(bytes([1, 1, 2, 3])) == LEFT


def test_a_board_without_a_move_has_no_best_one() -> None:
    search = Expectimax(Moves(2, 2), 10)
    assert search.best(bytes([1, 2, 2, 1])) is None
    assert search.best(bytes(4)) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=12, max_size=12), st.sampled_from([0, 10, 100]))
def test_the_best_move_is_legal_and_the_same_each_time(tiles: list[int], four_percent: int) -> None:
    moves, board = Moves(3, 4), bytes(tiles)
    best = Expectimax(moves, four_percent).best(board)
    assert best == Expectimax(moves, four_percent).best(board)
    assert best in moves.legal(board) or (best is None and not moves.legal(board))


def test_new_tiles_are_tried_on_evenly_spread_cells() -> None:
    assert _spread([3, 5, 9]) == [3, 5, 9]
    assert _spread(list(range(24))) == list(range(0, 24, 2))
    assert len(set(_spread(list(range(63))))) == MAX_CELLS
