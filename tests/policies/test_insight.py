"""Boards small enough to count their cells by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_policies.answers import Response
from vlmgym_policies.insight import (
    ERRORS,
    CellError,
    Perception,
    Regrets,
    Tally,
    cell_errors,
    legal_as_perceived,
    perceive,
    tally,
)

AnyGame = Game[Any, Any, Any]


def tiles() -> AnyGame:
    """Red and green circles and squares on 2 x 3 cells."""
    return make_game("shisen_sho", "tiny", rows=2, cols=3, copies=2)


TILES = "Red circle | Green square | -\n - | Red circle | Green square"
NUMBERS = "2 | 4 | -\n - | - | -\n - | - | 8"


def errors(game: AnyGame, truth: str, seen: str | None) -> dict[str, int]:
    found = perceive(game, game.from_text(truth), Response(seen, None, None))
    assert found.right == pytest.approx(1 - sum(found.errors.values()) / found.num_cells)
    return dict(found.errors)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (TILES, {}),
        (None, {"absent": 6}),
        ("Red circle | Green square | -", {"absent": 3}),
        (TILES + " | -", {"surplus": 1}),
        (TILES.replace("-\n", "Red square\n"), {"ghost": 1}),
        (TILES.replace("Green square | -", "- | -"), {"missing": 1}),
        ("Green circle" + TILES.removeprefix("Red circle"), {"wrong_color": 1}),
        ("Red square" + TILES.removeprefix("Red circle"), {"wrong_shape": 1}),
        ("Green square" + TILES.removeprefix("Red circle"), {"wrong_tile": 1}),
        ("Purple circle" + TILES.removeprefix("Red circle"), {"malformed": 1}),
        # The second row one cell to the left: its two tiles and the gap they leave are wrong for that one reason.
        ("Red circle | Green square | -\n Red circle | Green square | -", {"shifted": 2, "missing": 1}),
    ],
)
def test_each_wrong_cell_has_one_class(seen: str | None, expected: dict[str, int]) -> None:
    assert errors(tiles(), TILES, seen) == expected


def test_each_wrong_cell_is_told_with_its_place() -> None:
    game = tiles()
    seen = "Red circle | Red square | -\n Green circle | Red circle"
    assert cell_errors(game, game.from_text(TILES), Response(seen, None, None)) == [
        CellError(0, 1, "wrong_color", "Red square"),
        CellError(1, 0, "ghost", "Green circle"),
        CellError(1, 2, "absent", None),
    ]
    assert cell_errors(game, game.from_text(TILES), Response(TILES, None, None)) == []
    assert [error.error for error in cell_errors(game, game.from_text(TILES), Response(None, None, None))] == [
        "absent"
    ] * 6


def test_a_tile_one_cell_aside_is_shifted_with_the_gap_it_left() -> None:
    game = make_game("shisen_sho", "tiny", rows=2, cols=4, copies=2)
    truth, seen = "- | Red circle | - | -\n - | - | - | Red circle", "- | - | Red circle | -\n - | - | - | Red circle"
    assert errors(game, truth, seen) == {"shifted": 2}


def test_a_row_left_out_shifts_the_rows_below_it() -> None:
    """Rows 1 and 2 show what stands in rows 2 and 3; row 3 is missing."""
    game = make_game("twenty48", "tiny", rows=4, cols=2)
    assert errors(game, "2 | 4\n8 | 16\n32 | 64\n128 | 256", "2 | 4\n32 | 64\n128 | 256") == {"shifted": 4, "absent": 2}


@pytest.mark.parametrize(
    ("game", "truth", "seen", "expected"),
    [
        ("twenty48", NUMBERS, NUMBERS.replace("4", "8"), {"wrong_tile": 1}),
        ("twenty48", NUMBERS, NUMBERS.replace("- | 8", "3 | 8"), {"malformed": 1}),
        ("swap", None, None, {}),
        ("maze", None, None, {}),
    ],
)
def test_games_without_colors(game: str, truth: str | None, seen: str | None, expected: dict[str, int]) -> None:
    made = make_game(game, "tiny")
    truth = truth or made.describe(made.init(0))
    assert errors(made, truth, seen or truth) == expected


def test_a_gap_of_swap_may_be_written_either_way() -> None:
    game = make_game("swap", "tiny", rows=3, cols=3, refill=False)
    assert game.cell_parts("Empty") == game.cell_parts("-") == ()


def test_the_answer_is_judged_on_the_board_that_was_described() -> None:
    """In truth nothing connects the two circles' cells as named; on the board that is described, they are equal."""
    game = tiles()
    lie = "Red circle | Red circle | -\n - | - | -"
    assert legal_as_perceived(game, Response(lie, "", "(0, 0) (0, 1)")) is True
    assert legal_as_perceived(game, Response(TILES, "", "(0, 0) (0, 1)")) is False
    assert legal_as_perceived(game, Response(TILES, "", None)) is False
    assert legal_as_perceived(game, Response("no board", "", "(0, 0) (0, 1)")) is None
    assert legal_as_perceived(game, Response(None, "", "(0, 0) (0, 1)")) is None


SHISEN = "Red circle | Green circle\n Green circle | Red circle\n Red circle | Red circle"
"""3 x 2: equal circles of row 2 go first or last. Red (0, 0) with (2, 0) goes around the left, too."""
MAZE = "player | - | -\n wall | wall | -\n goal | - | -"
SOKOBAN = "player | box | - | goal\n - | - | - | -\n - | - | - | -\n - | - | - | -"
SWAP = "Red circle | Red circle | Green circle\n Green circle | Green square | Red circle\n - | - | -"


def maze() -> AnyGame:
    return make_game("maze", "tiny", rows=3, cols=3)


def swap() -> AnyGame:
    return make_game("swap", "tiny", rows=3, cols=3, refill=False)


@pytest.mark.parametrize(
    ("make", "board", "answer", "regret"),
    [
        # 6 steps to the goal: right is one of them; a wall or no answer loses one.
        (maze, MAZE, "right", 0.0),
        (maze, MAZE, "down", 1.0),
        (maze, MAZE, None, 1.0),
        # Back up from the corner: 5 steps left become 6, and the step itself is lost: 1 + 6 against 5.
        (maze, "- | player | -\n wall | wall | -\n goal | - | -", "left", 2.0),
        # Two pushes to the right solve it; going down first costs that step and the way back.
        (lambda: make_game("sokoban", "tiny"), SOKOBAN, "right", 0.0),
        (lambda: make_game("sokoban", "tiny"), SOKOBAN, "down", 2.0),
        (lambda: make_game("sokoban", "tiny"), SOKOBAN, "up", 1.0),
        # The one swap in sight removes the three red circles of the first row.
        (swap, SWAP, "(0, 2) (1, 2)", 0.0),
        (swap, SWAP, "(0, 0) (1, 0)", 3.0),
    ],
)
def test_regret_by_hand(make: Callable[[], AnyGame], board: str, answer: str | None, regret: float) -> None:
    game = make()
    assert Regrets(game)(game.from_text(board), answer) == pytest.approx(regret)


def test_a_pair_that_blocks_another_costs_that_pair() -> None:
    """One row, straight paths: A B B A. Both pairs go, if B goes first; a refused answer loses one pair of its step."""
    game = make_game("shisen_sho", "tiny", rows=2, cols=4, copies=2, turns=0)
    regrets = Regrets(game)
    state = game.from_text("Red circle | Red square | Red square | Red circle\n - | - | - | -")
    assert regrets(state, "(0, 1) (0, 2)") == 0.0
    assert regrets(state, "(0, 0) (0, 3)") == 1.0
    # A above A, and A in line with two others: taking (0, 0) (0, 1) leaves two that nothing connects.
    state = game.from_text("Red circle | Red circle | - | -\n Red circle | - | - | Red circle")
    assert regrets(state, "(0, 0) (0, 1)") == 0.0
    assert regrets(state, "(0, 0) (1, 0)") == 1.0


def test_2048_regret_is_the_difference_of_what_the_search_expects() -> None:
    game = make_game("twenty48", "tiny")
    state = game.from_text("2 | 2 | 4\n - | - | -\n - | - | -")
    values = {action: game.value(state, action) for action in game.legal_actions(state)}
    best = game.solve(state)
    regrets = Regrets(game)
    for action, value in values.items():
        assert regrets(state, str(action)) == pytest.approx(values[best] - value)
    assert regrets(state, "0") == pytest.approx(values[best] - min(values.values()))  # up changes nothing
    assert regrets(state, str(best)) == 0.0


def test_nothing_is_regretted_when_the_game_is_over() -> None:
    game = maze()
    assert Regrets(game)(game.from_text("player on goal | - | -\n - | - | -\n - | - | -"), "up") is None


def test_tallies_add_up_to_shares() -> None:
    """Four decisions on 10 cells each: two right boards, one answered legally; one misread, and legal; one lost."""
    right = Perception(10, {})
    decisions = [
        tally(True, True, True, right, True, 0.0),
        tally(False, False, True, right, False, 3.0),
        tally(True, False, True, Perception(10, {"ghost": 2, "missing": 1}), True, 1.0),
        tally(False, False, False, Perception(10, {"absent": 10}), None, None),
    ]
    total = Tally()
    for decision in decisions:
        total = total.plus(decision)
    rates = total.rates
    assert (rates["legal_move_rate"], rates["progress_rate"]) == (0.5, 0.25)
    assert rates["format_rate"] == rates["described_rate"] == 0.75
    assert rates["perception_board"] == 0.5
    assert rates["perception_cells"] == pytest.approx((1 + 1 + 0.7 + 0) / 4)
    assert rates["reasoning_given_perception"] == 0.5
    assert rates["reasoning_as_perceived"] == pytest.approx(2 / 3)
    assert (rates["best_move_rate"], rates["regret"]) == (pytest.approx(1 / 3), pytest.approx(4 / 3))
    assert rates["perception_error/ghost"] == pytest.approx(2 / 40)
    assert sum(rates[f"perception_error/{name}"] for name in ERRORS) == pytest.approx(13 / 40)


def test_what_nothing_happened_to_has_no_share() -> None:
    assert Tally().rates == {}
    blind = tally(False, False, False, Perception(4, {"absent": 4}), None, None).rates
    assert blind.keys().isdisjoint({"reasoning_given_perception", "reasoning_as_perceived", "regret"})


def test_the_solvers_answer_comes_with_the_regret() -> None:
    game = maze()
    regrets = Regrets(game)
    assert regrets.best_answer(game.from_text(MAZE)) == "right"
    assert regrets.best_answer(game.from_text("- | - | -\n wall | wall | -\n player on goal | - | -")) is None
