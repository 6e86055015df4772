from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs import Game, make_game
from vlmgym_envs.games.maze import MazeLevel, MazeState

AnyGame = Game[Any, Any, Any]

LETTERS = {"P": "player", "G": "goal", "*": "player on goal", "#": "wall", ".": "-", "?": "?"}

# The only way: two right, two down, two left, two down, four right, four up. 16 steps.
DRAWING = ("P..#G", "##.#.", "...#.", ".###.", ".....")


def text_of(*lines: str) -> str:
    return "\n".join("|".join(f" {LETTERS[letter]} " for letter in line) for line in lines)


@pytest.fixture
def maze() -> AnyGame:
    return make_game("maze", "tiny")


@pytest.fixture
def start(maze: AnyGame) -> MazeState:
    state: MazeState = maze.from_text(text_of(*DRAWING))
    return state


def steps_to_goal(state: MazeState, cols: int, closed: int | None = None) -> dict[int, int]:
    """Steps from each cell to the goal, or to the player where the goal is `closed`."""
    first = state.goal if closed is None else state.player
    assert first is not None
    found, queue = {first: 0}, deque([first])
    while queue:
        cell = queue.popleft()
        row, col = divmod(cell, cols)
        for near_row, near_col in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
            near = near_row * cols + near_col
            inside = 0 <= near_row < len(state.cells) // cols and 0 <= near_col < cols
            if inside and not state.cells[near] and near not in found and near != closed:
                found[near] = found[cell] + 1
                queue.append(near)
    return found


def test_a_text_holds_walls_player_and_goal(maze: AnyGame, start: MazeState) -> None:
    assert start.cells == bytes([0, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert (start.player, start.goal, start.shown) == (0, 4, bytes([1] * 25))
    assert maze.describe(start) == text_of(*DRAWING)
    assert maze.describe(start).startswith(" player | - | - | wall | goal \n wall | wall |")


def test_each_step_of_the_only_way_pays_one_and_the_last_one_ends(maze: AnyGame, start: MazeState) -> None:
    state, way = start, [1, 1, 2, 2, 3, 3, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0]
    for number, action in enumerate(way, start=1):
        assert maze.solve(state) == action
        step = maze.step(state, action)
        last = number == len(way)
        assert (step.reward, step.terminated, step.info) == (1.0, last, {"reached": last})
        state = step.state
    assert maze.describe(state) == text_of("...#*", *("##.#.", "...#.", ".###.", "....."))
    assert maze.legal_actions(state) == [] and maze.solve(state) is None
    assert maze.step(state, 2).refused == "the player is at the goal"
    assert maze.from_text(maze.describe(state)) == state


def test_a_step_away_costs_what_a_step_nearer_pays(maze: AnyGame, start: MazeState) -> None:
    there = maze.step(start, 1).state
    assert maze.legal_actions(there) == [1, 3]
    step = maze.step(there, 3)
    assert (step.state, step.reward, step.terminated) == (start, -1.0, False)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (0, "up of the player is the edge of the board"),
        (2, "cell (1, 0) is a wall"),
        (3, "left of the player is the edge of the board"),
        (4, "direction must be in 0..3, got 4"),
        (-1, "direction must be in 0..3, got -1"),
    ],
)
def test_walls_and_edges_refuse(maze: AnyGame, start: MazeState, action: int, reason: str) -> None:
    step = maze.step(start, action)
    assert step.refused == reason and step.state is start
    assert maze.legal_actions(start) == [1]


def test_a_view_shows_the_square_around_the_player_and_a_memory_keeps_it() -> None:
    near = make_game("maze", "tiny", view=1)
    start = near.from_text(text_of(*DRAWING))
    assert near.describe(start) == text_of("P.???", "##???", "?????", "?????", "?????")
    moved = near.step(near.step(start, 1).state, 1).state
    assert near.describe(moved) == text_of("?.P#?", "?#.#?", "?????", "?????", "?????")
    kept = make_game("maze", "tiny", view=1, remember=True)
    moved = kept.step(kept.step(start, 1).state, 1).state
    assert kept.describe(moved) == text_of("..P#?", "##.#?", "?????", "?????", "?????")
    assert near.describe(near.from_text(near.describe(moved))) == text_of("?.P#?", "?#.#?", "?????", "?????", "?????")
    assert kept.describe(kept.from_text(kept.describe(moved))) == kept.describe(moved)
    far = make_game("maze", "tiny", view=2)
    assert far.describe(far.from_text(text_of(*DRAWING))) == text_of("P..??", "##.??", "...??", "?????", "?????")


def test_the_hidden_part_pays_but_does_not_show() -> None:
    game = make_game("maze", "tiny", view=1)
    there = game.step(game.from_text(text_of(*DRAWING)), 1).state
    # The same view; here the goal is behind the player.
    other = game.step(game.from_text(text_of("P..#.", "##.#.", "...#.", ".###.", "G....")), 1).state
    assert game.key(there) == game.key(other) and there != other
    assert game.render(there).tobytes() == game.render(other).tobytes()
    assert game.step(there, 1).reward == 1.0


def test_unknown_cells_stay_unknown_and_cannot_be_entered() -> None:
    game = make_game("maze", "tiny", view=1)
    state = game.from_text(text_of("P.???", "##???", "?????", "?????", "?????"))
    assert state.goal is None and game.legal_actions(state) == [1]
    assert game.solve(state) == 1
    step = game.step(state, 1)
    assert (step.reward, step.terminated) == (0.0, False)
    assert game.describe(step.state) == text_of(".P???", "##???", "?????", "?????", "?????")
    assert game.step(step.state, 1).refused == "cell (0, 2) is unknown"
    assert game.solve(step.state) == 3


def test_the_solver_explores_towards_the_nearest_unknown_cell() -> None:
    # (2, 2) and (4, 0) lie beside unknown cells, 2 and 6 steps away; the goal is shut in.
    game = make_game("maze", "tiny")
    state = game.from_text(text_of("..P#G", ".#.##", ".#.?.", ".###.", ".?..."))
    assert game.solve(state) == 2
    closed = game.from_text(text_of("..P#G", ".#.##", ".#.#.", ".###.", ".?..."))
    assert game.solve(closed) == 3
    nothing_left = game.from_text(text_of("..P#G", ".#.##", ".#.#.", ".###.", ".#..."))
    assert game.solve(nothing_left) == 2 == game.legal_actions(nothing_left)[0]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["tiny", "small", "paper", "large"]), st.integers(0, 2**32))
def test_the_solver_is_as_short_as_a_breadth_first_search(level: str, seed: int) -> None:
    game = make_game("maze", level)
    state = game.init(seed)
    to_go = steps_to_goal(state, game.level.cols)
    assert to_go[state.player] == max(to_go.values())
    for left in range(to_go[state.player], 0, -1):
        step = game.step(state, game.solve(state))
        assert (step.reward, step.terminated) == (1.0, left == 1)
        state = step.state


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_who_explores_by_the_picture_alone_gets_there(seed: int) -> None:
    game = make_game("maze", "paper")
    state, rng, num_steps = game.init(seed), np.random.default_rng(0), 0
    while game.legal_actions(state):
        state, num_steps = game.step(state, game.teachers["seen_only"](state, rng)).state, num_steps + 1
        assert num_steps < 500
    assert state.player == state.goal


def test_exploring_is_blind_to_what_the_picture_hides() -> None:
    game = make_game("maze", "tiny", view=1)
    # The goal is up; the near end of what is known is on the way down, where up and down are as far.
    for goal_up in (True, False):
        ends = ("G", ".") if goal_up else (".", "G")
        state = game.from_text(text_of(f"{ends[0]}####", ".####", "P####", ".####", f"{ends[1]}####"))
        assert game.solve(state) == (0 if goal_up else 2)
        assert game.teachers["seen_only"](state, np.random.default_rng(0)) == 0


def test_mid_games_reach_from_the_start_to_the_last_step() -> None:
    game = make_game("maze", "tiny")
    places, num_last, expected_last = [], 0, 0.0
    for seed in range(600):
        state = game.mid_game(seed)
        to_go = steps_to_goal(state, 5)
        farthest = max(to_go.values())
        places.append((to_go[state.player] - 0.5) / farthest)
        num_last += to_go[state.player] == 1
        expected_last += 1 / farthest
        around = steps_to_goal(state, 5, closed=state.goal)
        assert any(to_go[cell] == farthest for cell in around)
    # Uniform in 0..1: mean 1/2, and its standard deviation is 0.29 / 600 ** 0.5 = 0.012.
    assert abs(np.mean(places) - 0.5) < 0.05
    assert abs(num_last - expected_last) < 4 * expected_last**0.5


def test_a_mid_game_remembers_its_way_from_the_start() -> None:
    game = make_game("maze", "paper")
    blind = make_game("maze", "paper", remember=False)
    more = 0
    for seed in range(20):
        state, other = game.mid_game(seed), blind.mid_game(seed)
        assert (state.cells, state.player, state.goal) == (other.cells, other.player, other.goal)
        row, col = divmod(state.player, 11)
        square = [max(abs(row - cell // 11), abs(col - cell % 11)) <= 3 for cell in range(121)]
        assert other.shown == bytes(square)
        assert all(now or not seen for seen, now in zip(other.shown, state.shown, strict=True))
        more += state.shown != other.shown
    assert more > 10


def test_explain_names_the_corners_of_the_way_that_can_be_seen(maze: AnyGame, start: MazeState) -> None:
    assert maze.explain(start, 1) == (
        " player (0, 0) right (0, 2) down (2, 2) left (2, 0) down (4, 0) right (4, 4) up (0, 4) goal"
    )
    there = maze.step(start, 1).state
    assert maze.explain(there, 3).startswith(" player (0, 1) left (0, 0) right (0, 2) down (2, 2)")
    assert maze.explain(start, 2) == " player (0, 0) down wall"
    assert maze.explain(start, 0) == " player (0, 0) up edge"
    near = make_game("maze", "tiny", view=1)
    assert near.explain(near.from_text(text_of(*DRAWING)), 1) == " player (0, 0) right (0, 1) ?"
    # The goal is in view, but the way to it is not.
    around = near.from_text(text_of(".....", ".G##.", ".#P..", ".###.", "....."))
    assert near.explain(around, 1) == " player (2, 2) right (2, 3) ?"
    last = maze.from_text(text_of("...#G", "##.#P", "...#.", ".###.", "....."))
    assert maze.explain(last, 0) == " player (1, 4) up (0, 4) goal"


def test_the_prompt_speaks_of_hidden_cells_only_where_there_are_any() -> None:
    assert "?" not in make_game("maze", "tiny").prompt
    near = make_game("maze", "tiny", view=2)
    assert "up to 2 rows and columns from the player are shown." in near.prompt and '" ? "' in near.prompt
    assert "are shown, and those seen before." in make_game("maze", "tiny", view=2, remember=True).prompt


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (("...#G", *DRAWING[1:]), "0 and 1"),
        (("PP.#G", *DRAWING[1:]), "2 and 1"),
        (("P.G#G", *DRAWING[1:]), "1 and 2"),
        (("P.*#.", *DRAWING[1:]), "2 and 1"),
    ],
)
def test_a_text_needs_one_player_and_no_two_goals(maze: AnyGame, lines: tuple[str, ...], counts: str) -> None:
    with pytest.raises(ValueError, match=f"board must hold one player and at most one goal, got {counts}"):
        maze.from_text(text_of(*lines))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rows": 6}, "rows must be odd, got 6"),
        ({"cols": 10}, "cols must be odd, got 10"),
        ({"rows": 43}, "rows must be in 3..41, got 43"),
        ({"art": "neon"}, "art must be one of 'plain', 'yard', 'dusk', got 'neon'"),
    ],
)
def test_impossible_levels_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        MazeLevel(**knobs)
    assert str(error.value) == message
