"""What every level of every game must keep."""

import json
import os
import pickle
import subprocess
import sys
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlmgym_envs import Game, InvalidAnswer

AnyGame = Game[Any, Any, Any]

quick = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32)

FINGERPRINTS = """
import json
from hashlib import sha256
from vlmgym_envs import game_ids, level_ids, make_game

def fingerprint(game):
    states = [game.init(0), game.mid_game(0)]
    states += [game.step(state, game.solve(state)).state for state in states]
    return [game.key(state).hex() + sha256(game.render(state)).hexdigest() for state in states]

games = {f"{id}-{level}": make_game(id, level) for id in game_ids() for level in level_ids(id)}
print(json.dumps({name: fingerprint(game) for name, game in games.items()}))
"""


@pytest.fixture(scope="module")
def fingerprints() -> list[dict[str, list[str]]]:
    """What two other processes, whose string hashes differ, see of every level."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FINGERPRINTS], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


def play_randomly(game: AnyGame, state: Any, seed: int, num_steps: int) -> list[tuple[Any, Any]]:
    """(action, state after it) of random legal actions; stops early where the game ends."""
    rng, played = np.random.default_rng(seed), []
    while len(played) < num_steps and (actions := game.legal_actions(state)):
        action = actions[int(rng.integers(len(actions)))]
        state = game.step(state, action).state
        played.append((action, state))
    return played


@quick
@given(seed=seeds)
def test_starts_depend_on_the_seed_alone_and_can_be_played(game: AnyGame, seed: int) -> None:
    for start in (game.init, game.mid_game):
        state = start(seed)
        assert start(seed) == state
        assert game.legal_actions(state)


def test_different_seeds_start_differently(game: AnyGame) -> None:
    assert len({game.init(seed) for seed in range(5)}) > 2
    assert len({game.mid_game(seed) for seed in range(5)}) > 2


def test_other_processes_see_the_same(game: AnyGame, fingerprints: list[dict[str, list[str]]]) -> None:
    one, other = (seen[f"{game.id}-{game.level_name}"] for seen in fingerprints)
    assert one == other
    assert len(set(one)) > 1


@quick
@given(seed=seeds)
def test_a_fork_is_exact(game: AnyGame, seed: int) -> None:
    start = game.mid_game(seed)
    before = (pickle.dumps(start), game.describe(start), game.key(start))
    played = play_randomly(game, start, seed, num_steps=4)
    assert (pickle.dumps(start), game.describe(start), game.key(start)) == before
    state = pickle.loads(before[0])
    assert state == start and hash(state) == hash(start)
    for action, after in played:
        state = game.step(state, action).state
        assert state == after


@quick
@given(seed=seeds)
def test_siblings_that_play_alike_stay_alike_and_others_never_touch(game: AnyGame, seed: int) -> None:
    start = game.mid_game(seed)
    first = play_randomly(game, start, seed, num_steps=4)
    kept = [(pickle.dumps(state), game.render(state).tobytes()) for _, state in first]
    play_randomly(game, start, seed + 1, num_steps=4)
    twin = game.mid_game(seed)
    for (action, state), (dumped, pixels) in zip(first, kept, strict=True):
        twin = game.step(twin, action).state
        assert pickle.dumps(twin) == pickle.dumps(state) == dumped
        assert game.render(twin).tobytes() == game.render(state).tobytes() == pixels


@quick
@given(seed=seeds)
def test_legal_actions_are_accepted_and_others_refused_with_a_reason(game: AnyGame, seed: int) -> None:
    state, rng = game.mid_game(seed), np.random.default_rng(seed)
    actions = game.legal_actions(state)
    assert len(set(map(game.format_answer, actions))) == len(actions)
    for action in islice(actions, 10):
        assert game.step(state, action).refused is None
    for _ in range(10):
        step = game.step(state, game.random_action(rng))
        if step.refused is None:
            assert step.state != state
        else:
            assert step.refused and step.info["refused"] == step.refused
            assert step.state is state and step.reward == 0.0 and step.terminated is False


@quick
@given(seed=seeds)
def test_the_game_ends_exactly_where_no_action_is_legal(game: AnyGame, seed: int) -> None:
    state = game.mid_game(seed)
    for _ in range(6):
        action = game.solve(state)
        assert (action is None) == (not game.legal_actions(state))
        if action is None:
            return
        step = game.step(state, action)
        assert step.refused is None
        assert step.terminated == (not game.legal_actions(step.state))
        state = step.state


@quick
@given(seed=seeds)
def test_text_and_state_are_inverses(game: AnyGame, seed: int) -> None:
    state = game.mid_game(seed)
    text = game.describe(state)
    again = game.from_text(text)
    assert game.describe(again) == text
    assert game.key(again) == game.key(state)
    assert np.array_equal(game.render(again), game.render(state))
    assert game.legal_actions(again) == game.legal_actions(state)
    rows = game.cells(text)
    assert len({len(row) for row in rows}) == 1
    assert all(cell and cell == cell.strip() for row in rows for cell in row)


def test_a_wrong_text_is_refused_with_its_place(game: AnyGame) -> None:
    text = game.describe(game.init(0))
    lines = text.split("\n")
    with pytest.raises(ValueError, match=f"{len(lines)} rows, got {len(lines) - 1}"):
        game.from_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="row 1"):
        game.from_text("\n".join([lines[0], lines[1] + "| - ", *lines[2:]]))
    broken = lines[1].split("|")
    broken[2] = " Plaid rhombus "
    with pytest.raises(ValueError, match=r"row 1, col 2: 'Plaid rhombus'"):
        game.from_text("\n".join([lines[0], "|".join(broken), *lines[2:]]))


def test_cells_of_any_text_can_be_split(game: AnyGame) -> None:
    assert game.cells("a | b\nc") == [["a", "b"], ["c"]]
    assert game.cells("") == [[""]]


def test_every_cell_of_a_board_has_its_parts_and_nothing_else_has(game: AnyGame) -> None:
    for seed in range(3):
        cells = [cell for row in game.cells(game.describe(game.mid_game(seed))) for cell in row]
        assert all(isinstance(game.cell_parts(cell), tuple) for cell in cells)
    assert game.cell_parts("-") == ()
    assert game.cell_parts("Purple dragon") is None and game.cell_parts("") is None


def test_the_solver_plays_what_it_values_and_a_refused_answer_is_worth_no_more(game: AnyGame) -> None:
    """Sokoban's solver counts pushes, its value steps: so the best value may be that of another action."""
    for seed in range(3):
        state = game.mid_game(seed)
        best = game.value(state, game.solve(state))
        values = [game.value(state, action) for action in game.legal_actions(state)]
        assert game.id == "sokoban" or best == max(values)
        assert game.value(state, None) <= max(values)
        assert game.value_unit


def test_a_picture_is_an_array_of_its_own(game: AnyGame) -> None:
    state = game.init(3)
    image = game.render(state)
    assert image.shape == game.image_shape and image.dtype == np.uint8 and image.flags.c_contiguous
    kept = image.copy()
    image[:] = 0
    assert np.array_equal(game.render(state), kept)


def test_equal_keys_mean_equal_pictures_and_texts(game: AnyGame) -> None:
    states = [game.init(seed) for seed in range(4)] + [game.mid_game(seed) for seed in range(8)]
    texts = {game.describe(state) for state in states}
    assert all(len(game.key(state)) == 16 for state in states)
    assert len({game.key(state) for state in states}) == len(texts)
    assert len({game.render(state).tobytes() for state in states}) == len(texts)


@quick
@given(seed=seeds)
def test_actions_survive_writing_and_the_space(game: AnyGame, seed: int) -> None:
    action = game.random_action(np.random.default_rng(seed))
    assert game.parse(game.format_answer(action)) == action
    sample = game.to_space(action)
    assert game.action_space.contains(sample)
    assert game.from_space(sample) == action


@quick
@given(answer=st.text(max_size=40))
def test_any_answer_is_an_action_or_a_reason(game: AnyGame, answer: str) -> None:
    try:
        action = game.parse(answer)
    except InvalidAnswer as error:
        assert str(error)
    else:
        assert game.action_space.contains(game.to_space(action))


def test_teachers_answer_for_any_start(game: AnyGame) -> None:
    assert {"solver", "greedy", "legal_random", "random"} <= set(game.teachers)
    for name, teacher in game.teachers.items():
        state = game.mid_game(1)
        action = teacher(state, np.random.default_rng(0))
        assert teacher(state, np.random.default_rng(0)) == action
        assert game.parse(game.format_answer(action)) == action
        assert game.explain(state, action).strip()
        if name in ("solver", "greedy", "legal_random"):
            assert game.step(state, action).refused is None


def test_the_prompt_is_short_plain_and_names_the_answer_form(game: AnyGame) -> None:
    lines = game.prompt.split("\n")
    assert len(lines) <= 12
    assert all(line and line.isascii() and line.isprintable() for line in lines)
    assert "<perception>board</perception><think>reasoning</think><answer>" in game.prompt
    assert game.prompt.endswith("</answer>")


def test_every_knob_of_a_level_has_a_rule(game: AnyGame) -> None:
    assert type(game.level) is game.level_class
    assert game.level.override({}) == game.level
