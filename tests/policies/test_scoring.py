import pytest

from vlmgym_policies.answers import parse_response, write_response
from vlmgym_policies.insight import perceive
from vlmgym_policies.scoring import RewardWeights, judge

BOARD = " Red circle | - \n - | Red circle "
PAPER = RewardWeights.of("shisen_sho")


@pytest.fixture
def state(game):
    return make(game).from_text(BOARD)


def make(game):
    from vlmgym_envs.registry import make_game

    return make_game("shisen_sho", level="tiny", rows=2, cols=2, colors=1, shapes=1)


@pytest.mark.parametrize(
    ("perception", "cells"),
    [
        (BOARD, 1.0),
        ("Red circle|-\n-|Red circle", 1.0),
        (" - | - \n - | Red circle ", 0.75),
        (" Red circle | - ", 0.5),
        (BOARD + "\n - | - ", 4 / 6),
        ("", 0.0),
    ],
)
def test_cells_by_hand(game, state, perception, cells):
    response = parse_response(write_response(perception, "", ""))
    assert perceive(make(game), state, response).right == pytest.approx(cells)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (write_response(BOARD, "", "(0, 0) (1, 1)"), 2.0),
        (write_response("nothing", "", "(0, 0) (1, 1)"), 2.0),
        (write_response(BOARD, "", "(0, 0) (0, 1)"), 0.0),
        (write_response(BOARD, "", "(0, 0) (7, 7)"), 0.0),
        ("<answer>(0, 0) (1, 1)</answer>", 1.0),
        ("(0, 0) (1, 1)", -1.0),
    ],
)
def test_rewards_of_the_paper(game, state, text, reward):
    """+1 or -1 for the move, nothing for perception in Shisen-Sho, 1 for all three tag pairs."""
    assert judge(make(game), state, text, PAPER).reward == reward


def test_perception_is_paid_where_its_weight_says(game, state):
    weights = RewardWeights.of("shisen_sho", perception=0.5)
    assert judge(make(game), state, write_response(BOARD, "", "x"), weights).reward == pytest.approx(0.5)
    assert RewardWeights.of("twenty48").perception == 1.0


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="got style"):
        RewardWeights.of("shisen_sho", style=1.0)
