"""Carries out an evaluation in a directory of its own: plays what is not played yet, and writes what it led to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from vlmgym import __version__
from vlmgym.errors import BadInput
from vlmgym.evals.evaluation_dir import EvaluationDir
from vlmgym.evals.journal import Journal, JournalStep
from vlmgym.evals.log import VERSION, EvalLog, Evaluation, Outcome, Policy, RunLog, StepLog, read_log, write_log
from vlmgym.evals.playing import OnStep, Player, play_all
from vlmgym.evals.policies import open_engine
from vlmgym.evals.protocol import CEILINGS
from vlmgym.evals.run_bar import run_bar
from vlmgym.evals.score_curves import draw_score_curves
from vlmgym.evals.summary import summarize
from vlmgym_envs.core import Game

MAX_VIDEOS = 10
"""Runs that are filmed unless more are asked for."""


@dataclass(frozen=True)
class Conduct:
    """How an evaluation is carried out; none of it changes the result.

    concurrency, timeout_s, max_retries: as in `open_engine`. ceilings: whether teachers are set beside the policy.
    num_videos: how many runs are filmed.
    """

    concurrency: int = 32
    timeout_s: float = 600.0
    max_retries: int = 5
    ceilings: bool = True
    num_videos: int = MAX_VIDEOS


def carry_out(evaluation: Evaluation, out: Path, conduct: Conduct, console: Console) -> EvalLog:
    """Plays what `out` does not hold yet, and writes eval.json, curves.png and videos/ there.

    May be interrupted at any time: the next call keeps every step that was answered, also those of failed runs.
    Errors: BadInput for a directory of another evaluation, and for a policy that cannot be started.
    """
    folder = EvaluationDir(out, evaluation)
    game = evaluation.make_game()
    known = read_log(folder.log) if folder.log.is_file() else None
    if known is not None and known.summary.num_failed == 0:
        log = known
    else:
        log = _new_log(evaluation, _played(game, evaluation, folder, conduct, console))
    if conduct.ceilings:
        ceilings = {name: summarize(_ceiling(game, evaluation, name, log.runs, folder, console)) for name in CEILINGS}
        log = log.model_copy(update={"ceilings": ceilings})
    if log != known:
        write_log(log, folder.log)
    if log.summary.num_failed == 0:
        folder.steps.unlink(missing_ok=True)
    draw_score_curves(log, folder.curves)
    _film(game, log, folder, conduct.num_videos, console)
    return log


def _new_log(evaluation: Evaluation, runs: Sequence[RunLog]) -> EvalLog:
    return EvalLog(
        version=VERSION,
        vlmgym=__version__,
        finished_at=datetime.now(UTC),
        evaluation=evaluation,
        summary=summarize(runs),
        ceilings={},
        runs=tuple(runs),
    )


def _played(
    game: Game[Any, Any, Any], evaluation: Evaluation, folder: EvaluationDir, conduct: Conduct, console: Console
) -> list[RunLog]:
    """All runs of the policy; the steps that the journal holds are not asked for again."""
    journal = Journal(folder.steps, JournalStep)
    past: dict[int, list[StepLog]] = {run: [] for run in range(evaluation.num_runs)}
    for record in journal.records:
        if record.step != len(past.get(record.run, ())):
            raise BadInput(f"{folder.steps} is damaged at step {record.step} of run {record.run}: choose another --out")
        past[record.run].append(record.log)
    with run_bar(console, evaluation.policy.spec, evaluation.num_runs, evaluation.max_steps) as bar:
        bar.advance(len(journal.records))

        def keep(run: int, step: int, log: StepLog) -> None:
            journal.append(JournalStep(run=run, step=step, log=log))
            bar.advance(1)

        try:
            return asyncio.run(_play(game, evaluation, conduct, past, keep, bar.end))
        finally:
            journal.close()


def _ceiling(
    game: Game[Any, Any, Any],
    evaluation: Evaluation,
    teacher: str,
    runs: Sequence[RunLog],
    folder: EvaluationDir,
    console: Console,
) -> Sequence[Outcome]:
    """The runs of a teacher under the same protocol and seeds; `runs` themselves where it is the policy."""
    policy = Policy(spec=teacher, kind="teacher", name=teacher)
    if evaluation.policy == policy:
        return runs
    journal = Journal(folder.outcomes(teacher), Outcome)
    outcomes = {outcome.run: outcome for outcome in journal.records}
    left = [run for run in range(evaluation.num_runs) if run not in outcomes]
    if left:
        with run_bar(console, teacher, len(left), evaluation.max_steps) as bar:

            def keep(run: RunLog) -> None:
                outcomes[run.run] = run.outcome
                journal.append(run.outcome)
                bar.end(run)

            asked = evaluation.model_copy(update={"policy": policy})
            asyncio.run(_play(game, asked, Conduct(), {run: () for run in left}, lambda *_: bar.advance(1), keep))
    journal.close()
    return [outcomes[run] for run in range(evaluation.num_runs)]


async def _play(
    game: Game[Any, Any, Any],
    evaluation: Evaluation,
    conduct: Conduct,
    past: Mapping[int, Sequence[StepLog]],
    on_step: OnStep,
    on_end: Callable[[RunLog], None],
) -> list[RunLog]:
    policy = evaluation.policy
    async with open_engine(
        policy,
        game,
        concurrency=conduct.concurrency,
        timeout_s=conduct.timeout_s,
        max_retries=conduct.max_retries,
    ) as engine:
        player = Player(game, evaluation, engine, policy.kind != "teacher", on_step, on_end)
        return await play_all(player, past)


def _film(game: Game[Any, Any, Any], log: EvalLog, folder: EvaluationDir, num_videos: int, console: Console) -> None:
    """Videos of the first runs that did not fail; those that exist are kept."""
    runs = [run for run in log.runs if run.error is None][:num_videos]
    missing = [run for run in runs if not folder.video(run.run).is_file()]
    if not missing:
        return
    from vlmgym.evals.video import write_video

    with run_bar(console, "videos", len(missing), log.evaluation.max_steps) as bar:
        for run in missing:
            write_video(game, log.evaluation.policy.spec, run, folder.video(run.run))
            bar.advance(run.num_steps)
            bar.end(run)
