"""Moves of a curriculum, worked out by hand."""

import numpy as np
import pytest

from vlmgym.grpo.curriculum import Curriculum, Ladder, Probe, any_place

SIZES = ({"rows": 3, "cols": 3}, {"rows": 4, "cols": 4}, {"rows": 6, "cols": 6})
KINDS = ({"colors": 2}, {"colors": 4})
LADDER = Ladder({"size": SIZES, "kinds": KINDS}, window=4, promote_above=0.7, demote_below=0.3)


def tell(curriculum, axis, *rates):
    for rate in rates:
        step = int(curriculum.metrics[axis]["step"])
        curriculum.record(Probe(axis, step), rate)
    return curriculum.metrics[axis]


def test_an_axis_moves_up_when_the_mean_of_a_full_window_is_above_the_bound():
    curriculum = Curriculum(LADDER)
    assert tell(curriculum, "size", 1.0, 1.0, 0.5) == {"step": 0, "success_rate": 2.5 / 3}, "the window is not full"
    assert tell(curriculum, "size", 0.4) == {"step": 1}, "2.9 / 4 = 0.725; the new step starts with an empty window"
    assert curriculum.metrics["kinds"] == {"step": 0}


def test_a_rate_at_a_bound_moves_nothing_and_the_window_slides():
    curriculum = Curriculum(LADDER)
    assert tell(curriculum, "size", 0.7, 0.7, 0.7, 0.7) == {"step": 0, "success_rate": pytest.approx(0.7)}
    assert tell(curriculum, "size", 0.8) == {"step": 1}, "0.7, 0.7, 0.7, 0.8: the first 0.7 is gone"


def test_an_axis_moves_down_when_it_is_too_hard_and_never_below_its_first_or_above_its_last_step():
    curriculum = Curriculum(LADDER)
    assert tell(curriculum, "size", *[1.0] * 4)["step"] == 1
    assert tell(curriculum, "size", 0.5, 0.5, 0.1, 0.05)["step"] == 0, "1.15 / 4 = 0.2875"
    assert tell(curriculum, "size", *[0.0] * 9)["step"] == 0
    assert tell(curriculum, "kinds", *[1.0] * 20)["step"] == 1


def test_what_was_drawn_before_a_move_does_not_count_after_it():
    curriculum = Curriculum(LADDER)
    tell(curriculum, "size", *[1.0] * 4)
    curriculum.record(Probe("size", 0), 1.0)
    assert curriculum.metrics["size"] == {"step": 1}


def test_groups_probe_the_axes_in_turn_at_their_step_and_play_the_others_up_to_theirs():
    curriculum, rng = Curriculum(LADDER), np.random.default_rng(0)
    tell(curriculum, "size", *[1.0] * 4)
    tell(curriculum, "kinds", *[1.0] * 4)
    places = [curriculum.draw(rng) for _ in range(60)]
    assert [place.probe for place in places[:4]] == [Probe("size", 1), Probe("kinds", 1)] * 2
    assert {place.knobs["rows"] for place in places[0::2]} == {4} and {p.knobs["colors"] for p in places[0::2]} == {
        2,
        4,
    }
    assert {place.knobs["rows"] for place in places[1::2]} == {3, 4} and {p.knobs["colors"] for p in places[1::2]} == {
        4
    }


def test_a_state_that_is_restored_goes_on_as_the_one_it_was_taken_from():
    one, other = Curriculum(LADDER), Curriculum(LADDER)
    tell(one, "size", *[1.0] * 5)
    one.draw(np.random.default_rng(0))
    state = one.get_state()
    tell(one, "size", 0.9)  # a state is a copy
    other.set_state(state)
    tell(other, "size", 0.9)
    assert one.get_state() == other.get_state()
    assert one.draw(np.random.default_rng(1)) == other.draw(np.random.default_rng(1))


def test_demonstrations_cover_every_level_that_can_be_reached():
    rng = np.random.default_rng(0)
    seen = {(place["rows"], place["cols"], place["colors"]) for place in (any_place(LADDER, rng) for _ in range(200))}
    assert seen == {(side, side, colors) for side in (3, 4, 6) for colors in (2, 4)}
