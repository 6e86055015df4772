from dataclasses import dataclass

import pytest

from vlmgym.ladder import AXES, knob_axes, knobs, picture_size
from vlmgym_envs.level import BoardLevel, Level, knob
from vlmgym_envs.registry import game_ids, make_game


@dataclass(frozen=True, slots=True)
class PuzzleLevel(Level):
    """Reasoning: depth, at most 9. Perception: size. How depth and noise differ is another matter."""

    size: int = knob(1, 1, 4)
    noise: int = knob(0, 0, 9)
    depth: int = knob(2, 1, 9)


def test_the_docstring_says_which_axis_a_knob_is_on() -> None:
    assert knob_axes(PuzzleLevel) == {"size": "perception", "noise": "other", "depth": "reasoning"}
    assert set(knob_axes(BoardLevel).values()) == {"perception"}


def test_knobs_tell_rule_and_values_by_axis() -> None:
    found = {knob.name: knob for knob in knobs(make_game("shisen_sho"))}
    assert found["rows"].axis == "reasoning" and found["rows"].rule == "2..16"
    assert found["rows"].values[:2] == (3, 6) and found["rows"].varies
    assert found["tile_px"].axis == "perception" and found["noise"].axis == "perception"
    assert found["copies"].values[:2] == (4, 4) and found["copies"].rule == "one of 2, 4, 6, 8"
    axes = [AXES.index(knob.axis) for knob in found.values()]
    assert axes == sorted(axes)


def test_a_picture_is_named_width_first() -> None:
    assert picture_size((48, 64, 3)) == "64 x 48"


@pytest.mark.parametrize("game_id", game_ids())
def test_every_knob_of_our_games_is_perception_or_reasoning(game_id: str) -> None:
    assert [knob.name for knob in knobs(make_game(game_id)) if knob.axis == "other"] == []
