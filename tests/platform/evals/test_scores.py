from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from vlmgym.evals.log import Interval, Outcome, Shares
from vlmgym.evals.scores import print_insight, print_scores, shown_score
from vlmgym.evals.summary import summarize


def outcomes(*scores: float, **more: Any) -> list[Outcome]:
    shares = Shares(illegal=0.25, well_formed=1.0, cells=0.5, boards=0.0)
    return [
        Outcome(run=0, seed=0, score=score, num_steps=4, terminated=True, shares=shares, **more) for score in scores
    ]


def printed(rows: Any, width: int | None = None) -> list[str]:
    text = StringIO()
    print_scores(Console(file=text, width=width, force_terminal=width is not None, color_system=None), "title", rows)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_row_per_policy() -> None:
    """Scores 1, 2, 3: 2 +- 2.48; all runs share their rates, so that their intervals have no width."""
    lost = outcomes(0, error="lost")
    rows = {
        "mine": summarize([*outcomes(1, 2, 3), *lost]),
        "solver": summarize(outcomes(1070.4)),
        "gone": summarize(lost),
    }
    lines = printed(rows, width=160)
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in lines[4:]]
    shares = ["25.0 [25.0, 25.0]", "100 [100, 100]", "50.0 [50.0, 50.0]", "0.0 [0.0, 0.0]"]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["mine", "2.00 [-0.48, 4.48]", *shares, "4", "1"],
        ["solver", "1070.4", "25.0", "100", "50.0", "0.0", "1", "0"],
        ["gone", "-", "-", "-", "-", "-", "1", "1"],
    ]
    assert "won" not in "".join(lines)


def test_won_has_a_column_where_a_game_says_so() -> None:
    """2 of 2: Wilson's lower end is 2 / (2 + 3.841459) = 0.342."""
    lines = printed({"a": summarize(outcomes(1, 2, won=True)), "b": summarize(outcomes(1, 2))}, width=160)
    assert "won %" in lines[2]
    assert "100 [34.2, 100]" in lines[4]
    assert "-" in lines[5].split() and "-" not in lines[4].split()


@pytest.mark.parametrize("width", [None, 100])
def test_nothing_is_cut(width: int | None) -> None:
    name = "openai:Qwen/Qwen2.5-VL-72B-Instruct@http://127.0.0.1:8000/v1"
    lines = printed({name: summarize(outcomes(1070, 892, won=False))}, width)
    assert max(map(len, lines)) <= (width or 120)
    assert "\u2026" not in "".join(lines)
    assert name in "".join(line.split()[0] for line in lines[4:] if line and not line.startswith(" "))
    assert any("981.0" in line for line in lines)


def test_scores_have_as_many_decimals_as_they_need() -> None:
    assert shown_score(Interval(mean=1070.04, low=1000, high=1140.2, n=10)) == ("1070.0", "[1000.0, 1140.2]")
    assert shown_score(Interval(mean=0.4, low=0.25, high=0.555, n=10))[0] == "0.40"
    assert shown_score(Interval(mean=-12.34, low=-13, high=-11, n=2))[0] == "-12.3"
    assert shown_score(Interval(mean=3, low=3, high=3, n=1)) == ("3.00", "")


def test_seeing_and_reasoning_have_a_table_with_the_unit_of_regret() -> None:
    shares = Shares(illegal=0.25, well_formed=1.0, cells=0.5, boards=0.5, reasoning=0.75, best=0.5, regret=1.25)
    played = Outcome(run=0, seed=0, score=1, num_steps=4, terminated=True, shares=shares)
    text = StringIO()
    console = Console(file=text, width=160, force_terminal=True, color_system=None)
    print_insight(console, {"mine": summarize([played])}, "pairs")
    _, header, _, row = text.getvalue().splitlines()
    assert " ".join(header.split()) == "policy boards % legal, board right % best moves % regret, pairs"
    assert row.split() == ["mine", "50.0", "75.0", "50.0", "1.25"]
