from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vlmgym.evals.comparison import obstacles, paired_difference, print_comparison
from vlmgym.evals.evaluation import Conduct, carry_out
from vlmgym.evals.log import EvalLog, Evaluation
from vlmgym.evals.summary import summarize

Make = Callable[..., Evaluation]

pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.fixture
def make_log(make_evaluation: Make, tmp_path: Path, console: Console) -> Callable[..., EvalLog]:
    """A log whose runs have these scores; None is a run that failed."""
    played = carry_out(
        make_evaluation("solver", num_runs=1), tmp_path / "e", Conduct(ceilings=False, num_videos=0), console
    )

    def make(*scores: float | None, **changes: Any) -> EvalLog:
        runs = tuple(
            played.runs[0].model_copy(
                update={"run": run, "score": score or 0.0, "error": "lost" if score is None else None}
            )
            for run, score in enumerate(scores)
        )
        evaluation = make_evaluation(num_runs=len(runs), **changes)
        return played.model_copy(update={"runs": runs, "evaluation": evaluation, "summary": summarize(runs)})

    return make


def test_equal_starts_are_compared_run_by_run(make_log: Callable[..., EvalLog]) -> None:
    """Differences 1, 2, 3: 2 +- 4.302653 / sqrt(3) = 2.484138, whatever the runs themselves scatter."""
    found = paired_difference(make_log(10, 500, 40), make_log(11, 502, 43))
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-5)


def test_only_runs_that_failed_in_neither_and_are_in_both_are_paired(make_log: Callable[..., EvalLog]) -> None:
    found = paired_difference(make_log(1, None, 3, 4), make_log(2, 2, None))
    assert found is not None and (found.mean, found.n) == (1.0, 1)
    assert paired_difference(make_log(None), make_log(1)) is None


def test_what_stands_in_the_way_is_named(make_evaluation: Make) -> None:
    one = make_evaluation(seed=0)
    assert obstacles(one, make_evaluation("solver", num_runs=7, temperature=0.0)) == []
    assert obstacles(one, make_evaluation(seed=3, max_steps=50)) == ["max_steps 100 and 50", "seed 0 and 3"]
    assert obstacles(one, make_evaluation(knobs={"rows": 4, "cols": 5})) == ["rows 3 and 4", "cols None and 5"]
    assert obstacles(one, one.model_copy(update={"game": "swap", "seed": 2})) == ["game shisen_sho and swap"]
    assert obstacles(one, make_evaluation(protocol="full")) == ["protocol paper and full", "max_steps 100 and 10000"]


def test_prints_a_table_and_a_line_per_other_log(make_log: Callable[..., EvalLog]) -> None:
    text = StringIO()
    logs = {
        "a": make_log(1, 2, 3),
        "b": make_log(2, 4, 6, policy="solver"),
        "c": make_log(9, seed=1),
        "d": make_log(None, None),
    }
    print_comparison(Console(file=text, width=160), logs)
    lines = [line.strip() for line in text.getvalue().splitlines()]
    assert "a: legal_random on shisen_sho, tiny, protocol paper, at most 100 steps, seed 0" in lines
    assert lines[-3:] == [
        "b - a: score 2.00 [-0.48, 4.48], paired over 3 runs from equal starts",
        "c - a: not comparable: seed 0 and 1",
        "d - a: not comparable: no run without failure in both",
    ]
    assert [line.split()[0] for line in lines[4:] if line[:2] in ("a ", "b ", "c ", "d ")][:4] == ["a", "b", "c", "d"]
