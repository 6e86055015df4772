from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs.games._clearing import clearable_deal, clearing_order, without
from vlmgym_envs.games._paths import Paths


@cache
def most_pairs(board: bytes, rows: int, cols: int, turns: int) -> int:
    """By trying every order."""
    pairs = Paths(board, rows, cols, turns).pairs()
    return max((1 + most_pairs(without(board, [pair]), rows, cols, turns) for pair in pairs), default=0)


@settings(max_examples=150, deadline=None)
@given(st.permutations([1] * 4 + [2] * 4 + [3] * 2 + [0] * 2), st.integers(0, 2))
def test_the_order_is_legal_and_no_other_is_longer(tiles: list[int], turns: int) -> None:
    board = bytes(tiles)
    order = clearing_order(board, 3, 4, turns)
    assert len(order) == most_pairs(board, 3, 4, turns)
    for pair in order:
        assert pair in Paths(board, 3, 4, turns).pairs()
        board = without(board, [pair])


def test_the_search_sees_past_a_first_move_that_loses() -> None:
    # . A A    The two upper A, the first pair in reading order, leave A B over B A: locked. The A of the middle row
    # A B .    has to go with one of them, then the column of the lower A is free.
    # B A .
    board = bytes([0, 1, 1, 1, 2, 0, 2, 1, 0])
    assert Paths(board, 3, 3).pairs()[0] == (1, 2)
    assert clearing_order(without(board, [(1, 2)]), 3, 3) == ()
    assert len(clearing_order(board, 3, 3)) == 3


def test_the_search_turns_back_from_a_choice_of_its_own() -> None:
    # A B B .    All pairs lie on the edge, so it takes the A of the two corners, then the upper B: locked. The upper
    # B A C .    right B with the B on the left leads on.
    # C B A A
    board = bytes([1, 2, 2, 0, 2, 1, 3, 0, 3, 2, 1, 1])
    assert Paths(without(board, [(0, 11), (1, 2)]), 3, 4).pairs() == []
    assert clearing_order(board, 3, 4)[:2] == ((0, 11), (2, 4))
    assert len(clearing_order(board, 3, 4)) == 5


def test_a_locked_and_an_empty_board_have_no_order() -> None:
    assert clearing_order(bytes([1, 2, 2, 1]), 2, 2) == ()
    assert clearing_order(bytes(6), 2, 3) == ()


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize(("rows", "cols", "copies"), [(2, 2, 2), (3, 4, 4), (6, 6, 4), (6, 6, 2), (8, 8, 2)])
def test_deals_keep_their_tiles_and_can_be_cleared(rows: int, cols: int, copies: int, turns: int) -> None:
    tiles = np.repeat(np.arange(1, rows * cols // copies + 1), copies)
    deals = [clearable_deal(tiles, rows, cols, np.random.default_rng(seed), turns) for seed in range(12)]
    assert len(set(deals)) > 3
    for deal in deals:
        assert sorted(deal) == tiles.tolist()
        assert 2 * len(clearing_order(deal, rows, cols, turns)) == rows * cols


def test_without_turns_only_straight_paths_count() -> None:
    # A B    One turn in the empty corner leads from A to A; without a turn no path does. The B has no second.
    # . A
    board = bytes([1, 2, 0, 1])
    assert [len(clearing_order(board, 2, 2, turns)) for turns in (0, 1, 2)] == [0, 1, 1]
    # A B C    The columns go one after the other without a turn.
    # A B C
    assert len(clearing_order(bytes([1, 2, 3, 1, 2, 3]), 2, 3, 0)) == 3
    # A B A    The A meet once the B between them are gone, and those are above one another.
    # C B C
    assert clearing_order(bytes([1, 2, 1, 3, 2, 3]), 2, 3, 0)[0] == (1, 4)


def test_the_deal_without_turns_also_fills_a_single_line() -> None:
    deal = clearable_deal(np.repeat([1, 2, 3], 2), 1, 6, np.random.default_rng(0), 0)
    assert sorted(deal) == [1, 1, 2, 2, 3, 3]
    assert len(clearing_order(deal, 1, 6, 0)) == 3


def test_a_large_deal_can_be_cleared() -> None:
    deal = clearable_deal(np.repeat(np.arange(1, 37), 4), 12, 12, np.random.default_rng(0))
    assert len(clearing_order(deal, 12, 12)) == 72
