import math
from typing import Any

import pytest

from vlmgym.evals.log import Outcome, Shares, Tokens
from vlmgym.evals.summary import shares_of, sum_errors, sum_tokens, summarize


def outcome(score: float, *, illegal: float = 0.0, num_steps: int = 10, **more: Any) -> Outcome:
    shares = Shares(illegal=illegal, well_formed=1.0, cells=0.5, boards=0.0)
    return Outcome(run=0, seed=0, score=score, num_steps=num_steps, terminated=True, shares=shares, **more)


def test_a_run_is_one_observation_whatever_its_length() -> None:
    """Scores 1, 2, 3: mean 2, s = 1, half = t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051 = 2.484138.

    Illegal shares 0, 0.5, 1 of runs of 1, 10 and 100 steps: mean 0.5, s = 0.5, half 1.242069, cut at 0 and 1.
    """
    found = summarize([outcome(1, num_steps=1), outcome(2, illegal=0.5), outcome(3, illegal=1.0, num_steps=100)])
    assert found.score is not None and found.illegal is not None
    assert (found.score.mean, found.score.n) == (2.0, 3)
    assert found.score.high - found.score.mean == pytest.approx(2.484138, abs=1e-5)
    assert (found.illegal.mean, found.illegal.low, found.illegal.high) == (0.5, 0.0, 1.0)
    assert (found.num_runs, found.num_steps, found.num_failed) == (3, 111, 0)


def test_a_failed_run_is_counted_and_in_no_mean() -> None:
    counted = Tokens(prompt=10, completion=1)
    runs = [outcome(4, tokens=counted), outcome(8, tokens=counted), outcome(0, error="timed out", tokens=counted)]
    found = summarize(runs)
    assert found.score is not None
    assert (found.score.mean, found.score.n, found.num_runs, found.num_failed) == (6.0, 2, 3, 1)
    assert found.tokens == Tokens(prompt=30, completion=3)


def test_where_all_runs_failed_there_is_no_mean() -> None:
    found = summarize([outcome(0, error="timed out")])
    assert found.score is None and found.illegal is None and found.won is None
    assert found.num_failed == 1


def test_won_runs_have_wilsons_interval() -> None:
    """2 of 4: center (0.5 + 3.841459 / 8) / (1 + 3.841459 / 4) = 0.5, half 0.349958 (Wilson 1927)."""
    found = summarize([outcome(1, won=True), outcome(1, won=True), outcome(1, won=False), outcome(1, won=None)])
    assert found.won is not None
    assert (found.won.mean, found.won.n) == (0.5, 4)
    z2 = 3.841459
    assert found.won.high == pytest.approx(0.5 + math.sqrt(z2) / (1 + z2 / 4) * math.sqrt(0.25 / 4 + z2 / 64), abs=1e-5)
    assert summarize([outcome(1), outcome(2)]).won is None


def test_shares_of_a_run(make_step: Any) -> None:
    steps = [make_step(), make_step(refused="no", cells=0.5), make_step(well_formed=False, cells=0.0), make_step()]
    assert shares_of(steps) == Shares(illegal=0.25, well_formed=0.75, cells=0.625, boards=0.5, reasoning=1.0)
    assert shares_of([]) is None


def test_seeing_and_reasoning_of_a_run(make_step: Any) -> None:
    """Of 2 right boards 1 is legal; of 3 described 2 are; of 3 judged answers 1 is best; 0 + 2 + 1 given away."""
    steps = [
        make_step(legal_as_perceived=True, regret=0.0),
        make_step(refused="no", legal_as_perceived=False, regret=2.0),
        make_step(cells=0.5, errors={"ghost": 3}, legal_as_perceived=True, regret=1.0),
        make_step(cells=0.0, errors={"ghost": 1, "absent": 2}),
    ]
    shares = shares_of(steps)
    assert shares is not None
    assert (shares.reasoning, shares.as_perceived) == (0.5, pytest.approx(2 / 3))
    assert (shares.best, shares.regret) == (pytest.approx(1 / 3), 1.0)
    assert sum_errors(step.errors for step in steps) == {"ghost": 4, "absent": 2}


def test_a_run_without_a_right_board_has_no_part_in_what_follows_from_one() -> None:
    """Means over the one run that has a value; the other perceived no board right."""
    known, unknown = (
        Outcome(
            run=0, seed=0, score=1, num_steps=2, terminated=True, errors={"ghost": 1},
            shares=Shares(illegal=0.5, well_formed=1.0, cells=0.5, boards=0.0, reasoning=reasoning),
        )
        for reasoning in (0.25, None)
    )  # fmt: skip
    found = summarize([known, unknown])
    assert found.reasoning is not None and (found.reasoning.mean, found.reasoning.n) == (0.25, 1)
    assert found.best is None and found.errors == {"ghost": 2}


def test_tokens_are_only_summed_where_all_were_counted() -> None:
    some = Tokens(prompt=3, completion=2)
    assert sum_tokens([some, some]) == Tokens(prompt=6, completion=4)
    assert sum_tokens([some, None]) is None
    assert sum_tokens([]) is None
