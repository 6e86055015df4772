from collections import Counter
from hashlib import blake2b, sha256
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym_envs import Game, level_ids, make_game
from vlmgym_envs.games._shisen import ShisenShoState
from vlmgym_envs.games.shisen_sho import ShisenShoLevel

AnyGame = Game[Any, Any, Any]

# (0, 0) and (1, 2) see each other through (0, 1), (0, 2); the squares (0, 3) and (2, 0) do not.
TEXT = "\n".join(
    (
        " Red circle | - | - | Red square ",
        " Green square | Green circle | Red circle | Green square ",
        " Red square | Green circle | Green circle | - ",
    )
)


def test_text_numbers_and_names(tiny: AnyGame) -> None:
    state = tiny.from_text(TEXT)
    assert state == ShisenShoState(bytes([1, 0, 0, 2, 4, 3, 1, 4, 2, 3, 3, 0]), num_moves=0)
    assert tiny.describe(state) == TEXT
    assert tiny.from_text(TEXT.replace(" ", "").replace("circle", " circle").replace("square", " square")) == state


def test_the_key_is_made_from_the_text_alone(tiny: AnyGame) -> None:
    state = tiny.from_text(TEXT)
    assert tiny.key(state) == tiny.key(ShisenShoState(state.board, num_moves=3))
    assert tiny.key(state) == blake2b(TEXT.encode(), digest_size=16).digest()


@given(st.lists(st.integers(0, 4), min_size=12, max_size=12))
def test_any_board_can_be_written_and_read(tiles: list[int]) -> None:
    tiny = make_game("shisen_sho", "tiny")
    state = ShisenShoState(bytes(tiles), 0)
    assert tiny.from_text(tiny.describe(state)) == state


def test_a_tile_of_another_level_is_refused(tiny: AnyGame) -> None:
    with pytest.raises(ValueError, match="row 2, col 1: 'Blue circle' is no tile of this level"):
        tiny.from_text(TEXT.replace(" Red square | Green circle", " Red square | Blue circle"))


def test_a_legal_move_pays_one_and_empties_two_cells(tiny: AnyGame) -> None:
    state = tiny.from_text(TEXT)
    for action in (((0, 0), (1, 2)), ((1, 2), (0, 0))):
        step = tiny.step(state, action)
        assert (step.reward, step.terminated, step.refused, step.info) == (1.0, False, None, {"cleared": False})
        assert step.state == ShisenShoState(bytes([0, 0, 0, 2, 4, 3, 0, 4, 2, 3, 3, 0]), num_moves=1)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (((0, 0), (0, 0)), "the two cells must differ, got (0, 0) twice"),
        (((0, 1), (0, 0)), "cell (0, 1) is empty"),
        (((0, 0), (2, 3)), "cell (2, 3) is empty"),
        (((0, 0), (0, 3)), "the tiles must be equal, got Red circle and Red square"),
        (((0, 3), (2, 0)), "no path of at most two turns connects (0, 3) and (2, 0)"),
        (((0, 0), (3, 0)), "cell (3, 0) is outside rows 0..2, cols 0..3"),
        (((0, -1), (0, 0)), "cell (0, -1) is outside rows 0..2, cols 0..3"),
    ],
)
def test_an_illegal_move_is_refused_with_its_reason(tiny: AnyGame, action: Any, reason: str) -> None:
    state = tiny.from_text(TEXT)
    step = tiny.step(state, action)
    assert step.refused == reason
    assert step.state is state and step.reward == 0.0 and not step.terminated


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_the_legal_actions_are_those_that_are_not_refused(seed: int) -> None:
    tiny = make_game("shisen_sho", "tiny")
    state = tiny.mid_game(seed)
    cells = list(product(range(3), range(4)))
    accepted = [(a, b) for a in cells for b in cells if a < b and tiny.step(state, (a, b)).refused is None]
    assert tiny.legal_actions(state) == accepted


def test_the_end_tells_cleared_from_stuck(tiny: AnyGame) -> None:
    row = " - | - | - | - "
    last_pair = tiny.from_text("\n".join((row, " Red circle | - | - | Red circle ", row)))
    step = tiny.step(last_pair, ((1, 0), (1, 3)))
    assert step.terminated and step.info["cleared"] is True
    assert tiny.solve(step.state) is None and tiny.legal_actions(step.state) == []
    # The pair of green circles leaves the red tiles as a locked 2 x 2 diagonal.
    locked = (" Red circle | Red square | - | - ", " Red square | Red circle | - | - ")
    step = tiny.step(tiny.from_text("\n".join((" Green circle | - | - | Green circle ", *locked))), ((0, 0), (0, 3)))
    assert step.terminated and step.info["cleared"] is False
    for teacher in ("solver", "legal_random"):
        with pytest.raises(ValueError, match="no legal action is left"):
            tiny.teachers[teacher](step.state, np.random.default_rng(0))


def test_explain_names_both_tiles_with_their_cells(tiny: AnyGame) -> None:
    state = tiny.from_text(TEXT)
    assert tiny.explain(state, ((0, 0), (1, 2))) == " Red circle (0, 0) Red circle (1, 2)"
    assert tiny.explain(state, ((0, 1), (2, 0))) == " - (0, 1) Red square (2, 0)"


def test_blind_teachers_draw_from_all_their_pairs_in_reading_order(tiny: AnyGame) -> None:
    state, rng = tiny.from_text(TEXT), np.random.default_rng(0)
    path_blind = Counter(tiny.teachers["path_blind"](state, rng) for _ in range(600))
    # Red circles and red squares make one pair each, green circles three, green squares one: 100 draws each.
    assert set(path_blind) == {
        ((0, 0), (1, 2)),
        ((0, 3), (2, 0)),
        ((1, 0), (1, 3)),
        ((1, 1), (2, 1)),
        ((1, 1), (2, 2)),
        ((2, 1), (2, 2)),
    }
    assert all(60 < count < 140 for count in path_blind.values())
    any_tiles = Counter(tiny.teachers["any_tiles"](state, rng) for _ in range(3600))
    # 9 tiles make 36 pairs: 100 draws each.
    assert len(any_tiles) == 36
    assert all(first < second for first, second in any_tiles)
    assert all(50 < count < 150 for count in any_tiles.values())
    assert not {(0, 1), (0, 2), (2, 3)} & {cell for pair in any_tiles for cell in pair}


def test_random_draws_from_all_ordered_pairs_of_cells(tiny: AnyGame) -> None:
    rng = np.random.default_rng(0)
    drawn = {tiny.teachers["random"](tiny.init(0), rng) for _ in range(1500)}
    assert len(drawn) == 144


@pytest.mark.parametrize(("level", "num_seeds"), [("tiny", 100), ("straight", 20), ("paper", 30), ("large", 1)])
def test_the_solver_clears_every_solvable_deal(level: str, num_seeds: int) -> None:
    game = make_game("shisen_sho", level)
    num_pairs = game.level.rows * game.level.cols // 2
    for seed in range(num_seeds):
        state = game.init(seed)
        for _ in range(num_pairs):
            step = game.step(state, game.solve(state))
            assert step.refused is None
            state = step.state
        assert step.info["cleared"] and step.terminated and state.num_moves == num_pairs


@pytest.mark.parametrize("solvable", [True, False])
def test_a_deal_holds_copies_of_different_kinds(solvable: bool) -> None:
    game = make_game("shisen_sho", "paper", solvable=solvable)
    seen: set[int] = set()
    for seed in range(30):
        counts = Counter(game.init(seed).board)
        assert set(counts.values()) == {4} and len(counts) == 9
        seen |= set(counts)
    assert seen == set(range(1, 37))


def test_unsolvable_levels_deal_boards_that_cannot_be_cleared() -> None:
    game = make_game("shisen_sho", "paper", rows=8, cols=8, copies=2, solvable=False)
    stuck = 0
    for seed in range(12):
        state = game.init(seed)
        while (action := game.solve(state)) is not None:
            state = game.step(state, action).state
        stuck += any(state.board)
    assert stuck > 6


@pytest.mark.parametrize(("level", "num_seeds"), [("tiny", 1200), ("paper", 180)])
def test_mid_games_are_spread_evenly_up_to_the_last_pair(level: str, num_seeds: int) -> None:
    game = make_game("shisen_sho", level)
    num_pairs = game.level.rows * game.level.cols // 2
    states = [game.mid_game(seed) for seed in range(num_seeds)]
    counts = Counter(state.num_moves for state in states)
    expected = num_seeds / num_pairs
    assert set(counts) == set(range(num_pairs))
    assert all(abs(count - expected) < 4 * expected**0.5 for count in counts.values())
    for state in states:
        assert sum(map(bool, state.board)) == 2 * (num_pairs - state.num_moves)
        assert all(count % 2 == 0 for tile, count in Counter(state.board).items() if tile)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rows": 40}, "rows must be in 2..16, got 40"),
        ({"copies": 3}, "copies must be one of 2, 4, 6, 8, 12, 16, got 3"),
        ({"rows": 5, "cols": 5}, "rows * cols must be divisible by copies, got 5 * 5 and 4"),
        ({"colors": 2, "shapes": 4}, "colors * shapes must be at least rows * cols / copies = 9, got 2 * 4"),
        ({"colors": 9}, "colors must be in 1..8, got 9"),
        ({"turns": 3}, "turns must be in 0..2, got 3"),
        (
            {"art": "flat"},
            "art must be one of 'plain', 'outline', 'striped', 'checked', 'stencil', 'dark', got 'flat'",
        ),
    ],
)
def test_impossible_levels_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        ShisenShoLevel(**knobs)
    assert str(error.value) == message


def test_named_levels_have_the_stated_pictures() -> None:
    shapes = {level: make_game("shisen_sho", level).image_shape for level in level_ids("shisen_sho")}
    square = (728, 728, 3)
    assert shapes == {
        "tiny": (48, 64, 3),
        "small": (504, 504, 3),
        "paper": square,
        "straight": square,
        "noisy": square,
        "large": square,
        "hard": square,
    }


# Red squares meet straight. Green circles meet through (0, 2) or (1, 1), green squares through (2, 3): one turn. Red
# circles meet around the outside: two.
TURNS_TEXT = "\n".join(
    (
        " Red circle | Green circle | - | Red circle ",
        " Red square | - | Green circle | Green square ",
        " Red square | Green square | - | - ",
    )
)
STRAIGHT, ONE_TURN, TWO_TURNS = ((1, 0), (2, 0)), ((0, 1), (1, 2)), ((0, 0), (0, 3))


@pytest.mark.parametrize(
    ("turns", "legal", "refused", "reason", "rule"),
    [
        (0, [STRAIGHT], ONE_TURN, "no straight path connects (0, 1) and (1, 2)", "and does not turn."),
        (
            1,
            [ONE_TURN, STRAIGHT, ((1, 3), (2, 1))],
            TWO_TURNS,
            "no path of at most one turn connects (0, 0) and (0, 3)",
            "and turns at most once.",
        ),
        (
            2,
            [TWO_TURNS, ONE_TURN, STRAIGHT, ((1, 3), (2, 1))],
            ((0, 0), (0, 1)),
            "the tiles must be equal, got Red circle and Green circle",
            "and turns at most twice.",
        ),
    ],
)
def test_paths_have_as_many_turns_as_the_level_says(
    turns: int, legal: list[Any], refused: Any, reason: str, rule: str
) -> None:
    game = make_game("shisen_sho", "tiny", turns=turns)
    state = game.from_text(TURNS_TEXT)
    assert game.legal_actions(state) == legal
    assert game.step(state, refused).refused == reason
    assert rule in game.prompt
    # A path that leaves the board needs two turns to come back.
    assert ("outside" in game.prompt) == (turns == 2)


def test_without_turns_a_game_can_still_be_stuck() -> None:
    game = make_game("shisen_sho", "tiny", turns=0)
    row = " - | - | - | - "
    state = game.from_text("\n".join((" Red circle | - | Red circle | - ", row, " - | Red square | - | Red square ")))
    step = game.step(state, ((0, 0), (0, 2)))
    assert not step.terminated
    apart = game.from_text(
        "\n".join((" Red circle | - | Red circle | - ", " - | Red square | - | - ", " - | - | - | Red square "))
    )
    step = game.step(apart, ((0, 0), (0, 2)))
    assert step.terminated and step.info["cleared"] is False


def test_mid_games_of_large_boards_with_few_turns_are_dealt() -> None:
    """Random play is stuck after about 15 of 72 pairs there, so the solver has to play on."""
    game = make_game("shisen_sho", "large", rows=8, cols=8, turns=1, copies=2)
    states = [game.mid_game(seed) for seed in range(6)]
    assert all(game.legal_actions(state) for state in states)
    assert max(state.num_moves for state in states) > 20


def test_the_tiny_level_stays_what_models_were_trained_on(tiny: AnyGame) -> None:
    states = [start(seed) for start in (tiny.init, tiny.mid_game) for seed in range(50)]
    texts = "\n\n".join(tiny.describe(state) + tiny.format_answer(tiny.solve(state)) for state in states)
    assert sha256(texts.encode()).hexdigest()[:16] == "28c9fae584e0f796"
    assert sha256(tiny.prompt.encode()).hexdigest()[:16] == "1add3c840e412f50"
    # Means of red, green and blue of the 16 x 16 pixels of each sprite, so that a new Pillow may round differently.
    means = [[244, 244, 244], [228, 137, 141], [228, 133, 138], [137, 196, 150], [133, 195, 147]]
    sprites = np.array([tiny.render(tiny.from_text(_all(name)))[:16, :16] for name in ("-", *NAMES)])
    assert np.abs(sprites.mean(axis=(1, 2)) - means).max() < 1


NAMES = ("Red circle", "Red square", "Green circle", "Green square")


def _all(name: str) -> str:
    return "\n".join(["|".join([f" {name} "] * 4)] * 3)
