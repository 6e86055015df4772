from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from vlmgym.evals.evaluation import Conduct, carry_out
from vlmgym.evals.log import Evaluation, RunLog, StepLog
from vlmgym.evals.score_curves import draw_score_curves, mean_curve, score_curve

MakeStep = Callable[..., StepLog]


def run_of(make_step: MakeStep, *rewards: float) -> RunLog:
    steps = tuple(make_step(reward=reward) for reward in rewards)
    return RunLog(run=0, seed=0, score=0.0, num_steps=len(steps), terminated=True, steps=steps, end_state="")


def test_scores_add_up_step_by_step(make_step: MakeStep) -> None:
    run = run_of(make_step, 4.0, 0.0, 8.0)
    assert score_curve(run, "reward_sum") == [0, 4, 4, 12]
    assert score_curve(run, "positive_steps") == [0, 1, 1, 2]


def test_the_mean_keeps_the_score_of_runs_that_ended(make_step: MakeStep) -> None:
    """0 4 4 4 and 0 0 2 8: 0, 2, 3, 6."""
    runs = [run_of(make_step, 4.0), run_of(make_step, 0.0, 2.0, 6.0)]
    assert mean_curve(runs, "reward_sum").tolist() == [0, 2, 3, 6]


def test_the_picture_is_drawn_also_where_all_runs_failed(
    make_evaluation: Callable[..., Evaluation], tmp_path: Path, console: Console
) -> None:
    log = carry_out(make_evaluation("random", max_steps=8), tmp_path / "e", Conduct(num_videos=0), console)
    image = np.asarray(Image.open(tmp_path / "e" / "curves.png").convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    failed = tuple(run.model_copy(update={"error": "lost"}) for run in log.runs)
    draw_score_curves(log.model_copy(update={"runs": failed, "ceilings": {}}), tmp_path / "failed.png")
    assert Image.open(tmp_path / "failed.png").size == Image.open(tmp_path / "e" / "curves.png").size
