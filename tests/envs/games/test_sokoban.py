from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs import Game, make_game
from vlmgym_envs.games.sokoban import SokobanLevel, SokobanState

AnyGame = Game[Any, Any, Any]

UP, RIGHT, DOWN, LEFT = range(4)
LETTERS = {"b": "box", "B": "box on goal", "p": "player", "P": "player on goal", "g": "goal", "#": "wall", ".": "-"}


def text_of(*lines: str) -> str:
    return "\n".join("|".join(f" {LETTERS[letter]} " for letter in line) for line in lines)


def set_up(*lines: str) -> tuple[AnyGame, SokobanState]:
    """A game of the drawing's size, and the drawing as a state."""
    game = make_game("sokoban", "tiny", rows=len(lines), cols=len(lines[0]), pulls=1)
    return game, game.from_text(text_of(*lines))


def played(game: AnyGame, state: SokobanState, *actions: int) -> tuple[str, float]:
    """Text and summed reward after some legal actions."""
    total = 0.0
    for action in actions:
        step = game.step(state, action)
        assert step.refused is None
        state, total = step.state, total + step.reward
    return game.describe(state), total


def plan_length(game: AnyGame, state: SokobanState) -> int | None:
    """Pushes left, counted by playing what the solver says; None where that takes more than 1000 steps."""
    num_pushes = 0
    for _ in range(1000):
        if not game.legal_actions(state):
            return num_pushes
        after = game.step(state, game.solve(state)).state
        num_pushes += boxes_of(after) != boxes_of(state)
        state = after
    return None


def boxes_of(state: SokobanState) -> list[int]:
    return [cell for cell, thing in enumerate(state.board) if thing in (2, 3)]


def test_a_text_is_a_board() -> None:
    game, state = set_up(".gb", "Bp#", "...")
    assert state.board == bytes([0, 1, 2, 3, 4, 6, 0, 0, 0])
    assert game.describe(state) == " - | goal | box \n box on goal | player | wall \n - | - | - "
    assert set_up("...", ".P.", "...")[1].board == bytes([0, 0, 0, 0, 5, 0, 0, 0, 0])


def test_walking_leaves_goals_as_they_are() -> None:
    game, state = set_up("pg.", "...", "b..")
    assert played(game, state, RIGHT) == (text_of(".P.", "...", "b.."), 0.0)
    assert played(game, state, RIGHT, RIGHT, DOWN) == (text_of(".g.", "..p", "b.."), 0.0)


def test_a_push_moves_the_box_one_cell_and_pays_for_goals_alone() -> None:
    game, state = set_up("b.....", "pb.gg.", "......")
    # Beside the goals, onto the first, on to the second, and off it.
    assert played(game, state, RIGHT) == (text_of("b.....", ".pbgg.", "......"), 0.0)
    assert played(game, state, RIGHT, RIGHT) == (text_of("b.....", "..pBg.", "......"), 1.0)
    assert played(game, state, RIGHT, RIGHT, RIGHT) == (text_of("b.....", "...PB.", "......"), 1.0)
    assert played(game, state, RIGHT, RIGHT, RIGHT, RIGHT) == (text_of("b.....", "...gPb", "......"), 0.0)
    before = game.from_text(text_of("b.....", "...PB.", "......"))
    assert game.step(before, RIGHT).reward == -1.0


def test_the_last_box_ends_the_game() -> None:
    game, state = set_up("....", "pbgB", "....")
    step = game.step(state, RIGHT)
    assert (step.reward, step.terminated, step.info) == (1.0, True, {"solved": True, "dead": False})
    assert game.legal_actions(step.state) == [] and game.solve(step.state) is None
    assert game.step(step.state, LEFT).refused == "all boxes are on goals"


@pytest.mark.parametrize(
    ("drawing", "action", "reason"),
    [
        (("p..", "...", "b.g"), UP, "up of the player is the edge of the board"),
        (("p#.", "...", "b.g"), RIGHT, "cell (0, 1) is a wall"),
        (("pb#", "...", "..g"), RIGHT, "the box on (0, 1) has a wall behind it"),
        (("pbb", "...", "..g"), RIGHT, "the box on (0, 1) has a box behind it"),
        (("pbB", "...", "..g"), RIGHT, "the box on (0, 1) has a box behind it"),
        ((".pb", "...", "..g"), RIGHT, "the box on (0, 2) is at the edge of the board"),
        (("p..", "...", "b.g"), 4, "direction must be in 0..3, got 4"),
    ],
)
def test_what_cannot_move_refuses(drawing: tuple[str, ...], action: int, reason: str) -> None:
    game, state = set_up(*drawing)
    step = game.step(state, action)
    assert step.refused == reason
    assert step.state is state and step.reward == 0.0 and not step.terminated
    assert action not in game.legal_actions(state)


def test_a_box_that_no_push_can_save_is_told() -> None:
    game, state = set_up("....", ".bp.", "..g.", "....")
    free = game.step(state, DOWN)
    assert free.info == {"solved": False, "dead": False}
    # At the left edge it can only go up and down, and the goal is not there.
    edge = game.step(state, LEFT)
    assert edge.info == {"solved": False, "dead": True} and not edge.terminated
    game, state = set_up("....", "gbp.", "b...", "....")
    assert game.step(state, LEFT).info["dead"] is False


def test_the_solver_walks_around_the_box() -> None:
    # Two pushes, up and to the right; the walk to below the box is two steps, the one to its left then two.
    game, state = set_up(".....", "...g.", ".pb..", ".....", ".....")
    assert plan_length(game, state) == 2
    assert game.solve(state) in (RIGHT, DOWN)
    # Around the wall: one up, two to the right, one down.
    game, state = set_up(".....", ".....", "pb#g.", ".....", "#####")
    walk = [DOWN, RIGHT, UP, LEFT, UP, RIGHT, RIGHT, UP, RIGHT, DOWN]
    for action in walk:
        assert game.solve(state) == action
        state = game.step(state, action).state
    assert game.describe(state) == text_of(".....", "...p.", "..#B.", ".....", "#####")


def test_where_there_is_no_plan_the_solver_takes_what_pays() -> None:
    game, state = set_up("b...", "..bg", ".p..")
    assert game.solve(state) == UP == game.legal_actions(state)[0]
    game, state = set_up("b...", ".pbg", "....")
    assert game.solve(state) == RIGHT
    assert game.legal_actions(state) == [UP, RIGHT, DOWN, LEFT]


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["tiny", "small", "paper"]), st.booleans(), st.integers(0, 2**32))
def test_every_deal_is_solved_in_no_more_pushes_than_pulls(level: str, fresh: bool, seed: int) -> None:
    game = make_game("sokoban", level)
    state = game.init(seed) if fresh else game.mid_game(seed)
    assert len(boxes_of(state)) == game.level.boxes
    num_pushes = plan_length(game, state)
    assert num_pushes is not None and 0 < num_pushes <= game.level.pulls


def test_half_of_the_mid_games_begin_beside_a_box_that_can_be_pushed() -> None:
    game = make_game("sokoban", "tiny", pulls=1)

    def share_ready(states: list[SokobanState]) -> float:
        ready = [any(game.step(state, action).reward > 0 for action in range(4)) for state in states]
        return sum(ready) / len(ready)

    # One push is left. Half of the players stand ready for it; the others are anywhere on 14 cells: 1/2 + 1/28.
    assert abs(share_ready([game.mid_game(seed) for seed in range(400)]) - 0.536) < 4 * (0.25 / 400) ** 0.5
    assert abs(share_ready([game.init(seed) for seed in range(400)]) - 1 / 14) < 4 * (1 / 14 / 400) ** 0.5


def test_mid_games_have_up_to_as_many_pulls_as_a_fresh_start() -> None:
    game = make_game("sokoban", "tiny", pulls=4)
    lengths = [plan_length(game, game.mid_game(seed)) for seed in range(120)]
    # An even number of pulls needs an even number of pushes; half of the numbers in 1..4 are even.
    assert set(lengths) == {1, 2, 3, 4}
    assert abs(sum(length in (2, 4) for length in lengths) - 60) < 4 * 30**0.5
    assert {plan_length(game, game.init(seed)) for seed in range(40)} == {2, 4}


def test_walls_are_as_many_as_the_level_says_and_what_they_cut_off() -> None:
    game = make_game("sokoban", "paper")
    counts = [game.init(seed).board.count(6) for seed in range(40)]
    # 15 % of 64 cells are 9.6.
    assert game.level.num_walls == 9 == min(counts) and max(counts) > 9


def test_explain_names_the_next_push_and_what_is_ahead() -> None:
    game, state = set_up(".....", ".....", "pb#g.", ".....", "#####")
    assert game.explain(state, DOWN) == " push (2, 1) up player (2, 0) down - (3, 0)"
    assert game.explain(state, RIGHT) == " push (2, 1) up player (2, 0) right box (2, 1) wall (2, 2)"
    assert game.explain(state, LEFT) == " push (2, 1) up player (2, 0) left edge"
    game, state = set_up("b..", "...", "..P")
    assert game.explain(state, UP) == " player (2, 2) up - (1, 2)"
    game, state = set_up("...", "gbp", "...")
    assert game.explain(state, LEFT) == " push (1, 1) left player (1, 2) left box (1, 1) goal (1, 0)"
    game, state = set_up("b..", "p..", "...")
    assert game.explain(state, UP) == " player (1, 0) up box (0, 0) edge"


@pytest.mark.parametrize(("lines", "count"), [(("...", "b.g", "..."), 0), (("p..", "bPg", "..."), 2)])
def test_a_text_needs_one_player(lines: tuple[str, ...], count: int) -> None:
    with pytest.raises(ValueError, match=f"board must hold one player, got {count}"):
        set_up(*lines)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"boxes": 6}, "boxes must be in 1..5, got 6"),
        ({"rows": 3, "cols": 3, "walls": 0}, "boxes must be at most a quarter of the 9 free cells, got 3"),
        ({"walls": 41}, "walls must be in 0..40, got 41"),
        ({"pulls": 0}, "pulls must be in 1..100, got 0"),
    ],
)
def test_impossible_levels_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        SokobanLevel(**knobs)
    assert str(error.value) == message
