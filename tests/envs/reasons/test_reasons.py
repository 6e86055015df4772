"""What a reason says is read back word by word and held against the board and the rules, whatever words it chose."""

import re
from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vlmgym_envs.core import Game
from vlmgym_envs.registry import game_ids, level_ids, make_game
from vlmgym_policies.answers import TAGS

AnyGame = Game[Any, Any, Any]
Cell = tuple[int, int]
NAMES = ("up", "right", "down", "left")
STEPS = dict(zip(NAMES, ((-1, 0), (0, 1), (1, 0), (0, -1)), strict=True))
CELL = r"\((-?\d+), (-?\d+)\)"


def boards(game: AnyGame, num: int) -> list[Any]:
    return [game.mid_game(seed) for seed in range(num)]


def worded(game: AnyGame, state: Any, action: Any, seed: int) -> str:
    return game.reason(state, action, np.random.default_rng(seed))


def levels_of(game_id: str) -> list[Any]:
    return [pytest.param(make_game(game_id, level), id=f"{game_id}-{level}") for level in level_ids(game_id)]


def things(game: AnyGame, state: Any) -> dict[Cell, str]:
    return {(r, c): cell for r, row in enumerate(game.cells(game.describe(state))) for c, cell in enumerate(row)}


def cells_in(text: str) -> list[Cell]:
    return [(int(row), int(col)) for row, col in re.findall(CELL, text)]


def legs_in(text: str) -> list[tuple[str, Cell]]:
    return [(name, (int(row), int(col))) for name, row, col in re.findall(rf"(up|right|down|left) to {CELL}", text)]


def walk(start: Cell, legs: list[tuple[str, Cell]]) -> list[Cell]:
    """Every cell on the way; fails where a leg does not lead to its corner."""
    passed, here = [], start
    for name, corner in legs:
        while here != corner:
            here = (here[0] + STEPS[name][0], here[1] + STEPS[name][1])
            passed.append(here)
            assert len(passed) < 200, f"{name} never leads to {corner}"
    return passed


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1])


def distance(free: set[Cell], start: Cell, end: Cell) -> int | None:
    steps, reached = {start: 0}, deque([start])
    while reached:
        here = reached.popleft()
        for down, right in STEPS.values():
            cell = (here[0] + down, here[1] + right)
            if cell in free and cell not in steps:
                steps[cell] = steps[here] + 1
                reached.append(cell)
    return steps.get(end)


@pytest.mark.parametrize("game_id", game_ids())
def test_words_vary_and_depend_on_the_generator_alone(game_id: str) -> None:
    game = make_game(game_id, "tiny")
    state = game.mid_game(1)
    action = game.solve(state)
    texts = [worded(game, state, action, seed) for seed in range(40)]
    assert texts == [worded(game, state, action, seed) for seed in range(40)]
    assert len(set(texts)) >= 6
    assert not any(f"<{tag}>" in text or f"</{tag}>" in text or "{" in text for text in texts for tag in TAGS)


@pytest.mark.parametrize("game_id", game_ids())
def test_a_move_that_the_rules_refuse_is_said_to_be_refused(game_id: str) -> None:
    game, rng, num_refused = make_game(game_id, "tiny"), np.random.default_rng(0), 0
    for state in boards(game, 10):
        action = game.random_action(rng)
        reason = game.step(state, action).refused
        if reason is not None:
            assert reason in worded(game, state, action, 0)
            num_refused += 1
    assert num_refused > 0


@pytest.mark.parametrize("game", [*levels_of("shisen_sho"), *levels_of("shisen_sho_pictures")])
def test_shisen_sho_names_equal_tiles_and_a_path_through_empty_cells(game: AnyGame) -> None:
    num_paths = 0
    for seed, state in enumerate(boards(game, 12)):
        board = things(game, state)
        actions = game.legal_actions(state)
        for action in {game.solve(state), actions[0], actions[-1]}:
            text = worded(game, state, action, seed)
            first, second = action
            assert board[first] == board[second] != "-"
            assert board[first] in text and {first, second} <= set(cells_in(text))
            named = {name for name in set(board.values()) - {"-"} if re.search(rf"\b{name}\b", text)}
            assert named == {board[first]}
            left = number(r"(\d+) tile", text)
            assert left == sum(name != "-" for name in things(game, game.step(state, action).state).values())
            if legs := legs_in(text):
                num_paths += 1
                assert f"rom {first}" in text
                *passed, end = walk(first, legs)
                assert end == second and all(board.get(cell, "-") == "-" for cell in passed)
                assert number(r"(\d+) turn", text) == len(legs) - 1 <= game.level.turns
                outside = [corner for _, corner in legs if corner not in board]
                assert outside == [(int(row), int(col)) for row, col in re.findall(rf"{CELL}, outside", text)]
            else:
                assert abs(first[0] - second[0]) + abs(first[1] - second[1]) == 1
    assert num_paths > 0


@pytest.mark.parametrize("game", levels_of("twenty48"))
def test_2048_names_merges_that_happen_and_what_each_move_pays(game: AnyGame) -> None:
    reasons = set()
    for seed, state in enumerate(boards(game, 12)):
        board, legal = things(game, state), game.legal_actions(state)
        paid = {NAMES[action]: int(game.step(state, action).reward) for action in legal}
        for action in legal:
            text = worded(game, state, action, seed)
            assert number(r"pays (\d+)", text) == paid[NAMES[action]]
            compared = dict(re.findall(r"(up|right|down|left) pays (\d+)", text))
            assert {name: int(points) for name, points in compared.items()} == {
                name: points for name, points in paid.items() if name != NAMES[action]
            }
            merges = re.findall(r"(row|col) (\d+): (\d+) \+ (\d+)", text)
            assert sum(int(one) + int(other) for *_, one, other in merges) == paid[NAMES[action]]
            for axis, line, one, other in merges:
                tiles = [tile for cell, tile in sorted(board.items()) if cell[axis == "col"] == int(line)]
                stand = [tile for tile in tiles if tile != "-"]
                assert (one, other) in pairwise(stand)
            assert bool(re.search("No other direction|only legal", text)) == (len(legal) == 1)
            if re.search("No move pays more|most that any move pays", text):
                reasons.add("pays")
                assert paid[NAMES[action]] == max(paid.values())
            if "empty cell" in text:
                reasons.add("empty")
                empty = {a: list(things(game, game.step(state, a).state).values()).count("-") + 1 for a in legal}
                assert number(r"(\d+) empty cell", text) == empty[action] == max(empty.values())
            if re.search("best board|promises the most", text):
                reasons.add("ahead")
                assert game.value(state, action) == max(game.value(state, other) for other in legal)
    assert "pays" in reasons


@pytest.mark.parametrize("game", levels_of("maze"))
def test_a_way_through_the_maze_can_be_walked_and_is_as_long_as_said(game: AnyGame) -> None:
    for seed, state in enumerate(boards(game, 12)):
        board = things(game, state)
        at = {thing: cell for cell, thing in board.items()}
        free = {cell for cell, thing in board.items() if thing not in ("wall", "?")}
        fewest = distance(free, at["player"], at["goal"]) if "goal" in at else None
        for action in game.legal_actions(state):
            text = worded(game, state, action, seed)
            legs = legs_in(text)
            if not legs:
                ahead = walk(at["player"], [(NAMES[action], cells_in(text)[-1])])
                assert fewest is None and len(ahead) == 1 and board[ahead[0]] == "-"
                continue
            assert cells_in(text)[:2] == [at["player"], at["goal"]]
            here, terminated = state, False
            way, start = walk(at["player"], legs), at["player"]
            for cell in way:
                step = (cell[0] - start[0], cell[1] - start[1])
                played = game.step(here, list(STEPS.values()).index(step))
                assert played.refused is None
                here, terminated, start = played.state, played.terminated, cell
            assert terminated and number(r"(\d+) move", text) == len(way)
            if "shortest" in text or "No shorter" in text:
                assert len(way) == fewest
            else:
                assert int(re.findall(r"(\d+) move", text)[1]) == fewest < len(way)


@pytest.mark.parametrize("game", levels_of("sokoban"))
def test_sokoban_names_the_push_that_comes_and_the_walk_to_it(game: AnyGame) -> None:
    num_plans = 0
    for seed, state in enumerate(boards(game, 8)):
        board, best = things(game, state), game.solve(state)
        (player,) = [cell for cell, thing in board.items() if thing.startswith("player")]
        for action in game.legal_actions(state):
            text = worded(game, state, action, seed)
            assert player in cells_in(text)
            if re.search("The cell|of me", text):
                ahead = (player[0] + STEPS[NAMES[action]][0], player[1] + STEPS[NAMES[action]][1])
                thing = "empty cell" if board[ahead] == "-" else board[ahead]
                assert ahead in cells_in(text) and f" {thing}" in text and NAMES[action] in text
                continue
            num_plans += 1
            assert action == best
            box, target = cells_in(text)[:2]
            assert board[box].startswith("box")
            assert ("which is a goal" in text) == (board[target] in ("goal", "player on goal"))
            walked = number(r"(\d+) step", text) if re.search(r"\d+ step", text) else 0
            here = state
            for _ in range(walked):
                here = game.step(here, game.solve(here)).state
                assert things(game, here)[box].startswith("box")
            after = things(game, game.step(here, game.solve(here)).state)
            assert after[target].startswith("box") and after[box].startswith("player")
    assert num_plans > 0


@pytest.mark.parametrize("game", levels_of("swap"))
def test_a_swap_lines_up_what_is_said_and_as_much_vanishes(game: AnyGame) -> None:
    bare = make_game("swap", game.level_name, refill=False)
    for seed, state in enumerate(boards(game, 6)):
        board, best = things(game, state), game.solve(state)
        removed = {a: bare.step(bare.from_text(game.describe(state)), a).reward for a in game.legal_actions(state)}
        for action in {best, *game.legal_actions(state)[:2]}:
            text = worded(game, state, action, seed)
            first, second = action
            assert f"{board[first]} at {first}" in text and f"{board[second]} at {second}" in text
            swapped = board | {first: board[second], second: board[first]}
            lines = re.findall(rf"(\w+ \w+) at ({CELL}(?:,| and) {CELL}[^A-Z.]*)", text)
            assert lines
            for name, listed, *_ in lines:
                line = cells_in(listed)
                assert len(line) >= game.level.run_length and {swapped[cell] for cell in line} == {name}
                assert len({row for row, _ in line}) == 1 or len({col for _, col in line}) == 1
                assert max(line)[0] - min(line)[0] + max(c for _, c in line) - min(c for _, c in line) == len(line) - 1
            assert number(r"(\d+) (?:tiles )?(?:vanish|are removed)", text.replace(" tiles", "")) == removed[action]
            assert ("No other swap" in text or "is the most" in text) == (removed[action] == max(removed.values()))


def test_a_goal_is_named_as_one_also_where_the_player_stands_on_it() -> None:
    game = make_game("sokoban", "tiny")
    rows = (
        "wall | wall | wall | wall",
        "player on goal | box | - | wall",
        "- | - | - | wall",
        "wall | wall | wall | wall",
    )
    state = game.from_text("\n".join(f" {row} " for row in rows))
    text = worded(game, state, game.solve(state), 0)
    assert cells_in(text)[:2] == [(1, 1), (1, 0)] and "(1, 0), which is a goal" in text
