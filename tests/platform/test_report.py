import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from vlmgym.evals.report import Rate, decision_rates, mean_interval, print_table, rate, write_summary
from vlmgym_policies.insight import Perception
from vlmgym_policies.scoring import Score


def test_wilson_interval_by_hand() -> None:
    """z = 1.959964, z^2 = 3.841459: center (0.8 + 0.192073) / 1.384146, half 1.416010 * sqrt(0.016 + 0.0096036)."""
    assert rate(8, 10) == pytest.approx((0.8, 0.490162, 0.943318, 10), abs=1e-5)


def test_wilson_interval_stays_within_zero_and_one() -> None:
    """At 0 of n the upper end is z^2 / (n + z^2) = 3.841459 / 103.841459."""
    assert rate(0, 100) == pytest.approx((0.0, 0.0, 0.036994, 100), abs=1e-5)
    assert rate(100, 100) == pytest.approx((1.0, 1 - 0.036994, 1.0, 100), abs=1e-5)


def test_more_states_make_the_interval_narrower_by_the_root() -> None:
    wide, narrow = rate(50, 100), rate(5000, 10_000)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_a_rate_needs_possible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"successes must be in 0\.\.n"):
        rate(successes, n)


def test_mean_interval_by_hand() -> None:
    """Mean 2, s = 1, t(0.975, 2) = 4.302653: half = 4.302653 / sqrt(3)."""
    half = 4.302653 / math.sqrt(3)
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - half, 2 + half, 3), abs=1e-5)


def test_mean_interval_is_cut_at_the_bounds_and_is_a_point_for_one_value() -> None:
    assert mean_interval([0.9, 1.0, 1.0], bounds=(0.0, 1.0)).high == 1.0
    assert mean_interval([0.5]) == Rate(0.5, 0.5, 0.5, 1)
    with pytest.raises(ValueError, match="at least 1 value"):
        mean_interval([])


def score(*, legal: bool, well_formed: bool, cells: float) -> Score:
    perception = Perception(100, {} if cells == 1.0 else {"absent": round(100 * (1 - cells))})
    return Score(0.0, 1.0 if legal else -1.0, legal, well_formed, perception, None)


def test_decision_rates_count_each_part_apart() -> None:
    scores = [
        score(legal=True, well_formed=True, cells=1.0),
        score(legal=False, well_formed=True, cells=1.0),
        score(legal=False, well_formed=True, cells=0.5),
        score(legal=False, well_formed=False, cells=0.0),
    ]
    rates = decision_rates(scores)
    means = {name: value.mean for name, value in rates.items()}
    assert (
        means.items()
        >= {
            "legal_move_rate": 0.25,
            "progress_rate": 0.25,
            "format_rate": 0.75,
            "perception_board": 0.5,
            "perception_cells": 0.625,
            "perception_error/absent": 0.375,
            "perception_error/ghost": 0.0,
            "reasoning_given_perception": 0.5,
        }.items()
    )
    assert means.keys().isdisjoint({"reasoning_as_perceived", "regret", "best_move_rate"})
    assert {name: value.n for name, value in rates.items() if value.n != 4} == {"reasoning_given_perception": 2}


RESULTS = {
    "solver": {"sampled": {"legal_move_rate": rate(512, 512), "progress_rate": rate(512, 512)}},
    "grpo": {
        "sampled": {"legal_move_rate": rate(448, 512), "perception_board": rate(500, 512)},
        "greedy": {"legal_move_rate": rate(470, 512)},
    },
    "mine": {"sampled": {"legal_move_rate": rate(1, 2)}},
}


def test_summary_has_the_documented_shape(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", {"maze/tiny": RESULTS})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"maze/tiny"} and set(summary["maze/tiny"]) == {"solver", "grpo", "mine"}
    found = summary["maze/tiny"]["grpo"]["sampled"]["legal_move_rate"]
    assert found == {
        "mean": 0.875,
        "low": pytest.approx(0.8435, abs=1e-3),
        "high": pytest.approx(0.9009, abs=1e-3),
        "n": 512,
    }


def test_table_rows_are_in_order_and_missing_numbers_are_dashes() -> None:
    text = io.StringIO()
    print_table(Console(file=text), "maze/tiny", RESULTS)
    rows = [line.split("  ") for line in text.getvalue().splitlines() if "[" in line and "%" not in line]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [row[0] for row in cells] == ["after GRPO", "solver", "mine"]
    assert cells[0] == ["after GRPO", "87.5 [84.4, 90.1]", "91.8 [89.1, 93.9]", "-", "97.7 [95.9, 98.7]", "-"]


def test_progress_has_columns_where_it_is_not_the_same_as_legal() -> None:
    text = io.StringIO()
    sampled = {"sampled": {"legal_move_rate": rate(512, 512), "progress_rate": rate(256, 512)}}
    print_table(Console(file=text), "twenty48/tiny", {**RESULTS, "legal_random": sampled})
    assert "progress" in text.getvalue() and "50.0" in text.getvalue()
    text = io.StringIO()
    print_table(Console(file=text), "maze/tiny", RESULTS)
    assert "progress" not in text.getvalue() and "maze/tiny, held-out states" in text.getvalue()


FULL = {
    name: {
        mode: dict.fromkeys(("legal_move_rate", "format_rate", "perception_board", "perception_cells"), found)
        for mode in ("sampled", "greedy")
    }
    for name, found in (("untrained", rate(233, 512)), ("cold_start_best", rate(0, 512)), ("grpo", rate(512, 512)))
}


@pytest.mark.parametrize(("terminal_width", "lines_per_row", "limit"), [(None, 1, 120), (100, 2, 100), (120, 1, 120)])
def test_table_cuts_nothing(terminal_width: int | None, lines_per_row: int, limit: int) -> None:
    """233 of 512 is 45.5%; Wilson's interval 41.2 to 49.8."""
    text = io.StringIO()
    is_terminal = terminal_width is not None
    print_table(
        Console(file=text, width=terminal_width, force_terminal=is_terminal, color_system=None), "maze/tiny", FULL
    )
    assert text.getvalue().count("[41.2, 49.8]") == text.getvalue().count("[99.3, 100]") == 5
    assert "\u2026" not in text.getvalue()
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert max(map(len, lines)) <= limit
    (rule,) = (index for index, line in enumerate(lines) if line.startswith("\u2500"))
    assert len([line for line in lines[rule + 1 :] if line]) == 3 * lines_per_row
    assert ("45.5 [41.2, 49.8]" in text.getvalue()) == (lines_per_row == 1)
