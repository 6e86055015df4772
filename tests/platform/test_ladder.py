from dataclasses import dataclass

import pytest

from vlmgym.ladder import AXES, Knob, knob_axes, knobs, picture_size
from vlmgym_envs.level import BoardLevel, Level, knob
from vlmgym_envs.registry import game_ids, level_ids, make_game


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
    rows = dict(zip(level_ids("shisen_sho"), found["rows"].values, strict=True))
    assert (rows["tiny"], rows["paper"]) == (3, 6)
    assert found["rows"].axis == "reasoning" and found["rows"].rule == "2..16" and found["rows"].varies
    assert found["tile_px"].axis == "perception" and found["noise"].axis == "perception"
    assert found["solvable"].rule == "one of True, False"
    axes = [AXES.index(knob.axis) for knob in found.values()]
    assert axes == sorted(axes)


def test_a_knob_varies_where_two_levels_differ() -> None:
    assert Knob("rows", "reasoning", "1..9", (3, 3, 4)).varies
    assert not Knob("rows", "reasoning", "1..9", (3, 3, 3)).varies


def test_a_picture_is_named_width_first() -> None:
    assert picture_size((48, 64, 3)) == "64 x 48"


@pytest.mark.parametrize("game_id", game_ids())
def test_every_knob_of_our_games_is_perception_or_reasoning(game_id: str) -> None:
    assert [knob.name for knob in knobs(make_game(game_id)) if knob.axis == "other"] == []
