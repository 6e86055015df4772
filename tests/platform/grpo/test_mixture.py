"""The order in which games are drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgym.grpo.mixture import Mixture

WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6)


def drawn(weights, num):
    mixture = Mixture(weights)
    return [mixture.game(number) for number in range(num)]


@given(WEIGHTS, st.integers(1, 200))
def test_at_any_time_each_game_has_its_share_up_to_less_than_one(weights, num):
    games = drawn(weights, num)
    for end in range(1, num + 1):
        for game, weight in enumerate(weights):
            assert abs(games[:end].count(game) - end * weight / sum(weights)) < 1


def test_games_of_one_weight_take_turns_and_a_batch_has_each_as_often():
    assert drawn([1, 1, 1], 6) == [0, 1, 2, 0, 1, 2]
    assert drawn([3], 4) == [0, 0, 0, 0]
    assert sorted(drawn([2, 1, 1], 4)) == [0, 0, 1, 2]


def test_a_draw_depends_on_its_number_alone():
    mixture = Mixture([2, 1])
    assert (mixture.game(7), [mixture.game(number) for number in range(8)]) == (1, drawn([2, 1], 8))


@pytest.mark.parametrize("weights", [[], [1, 0], [-1]])
def test_weights_are_above_0(weights):
    with pytest.raises(ValueError, match="weights must be above 0, one per game"):
        Mixture(weights)
