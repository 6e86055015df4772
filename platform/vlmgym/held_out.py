"""What a run measures on held-out states: references once, its own policy now and then; and the summary of it all."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vlmgym.curves import COLD_START, GRPO
from vlmgym.evals.report import PolicyResult, Rate, decision_rates, write_summary
from vlmgym.evals.runner import decide, held_out_states
from vlmgym.grpo.group_stats import GAME, level_key
from vlmgym.job import Job
from vlmgym.metrics_file import Point
from vlmgym.settings import GameSettings
from vlmgym_envs.core import Game
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.insight import Regrets

EVALUATIONS_FILE = "evaluations.json"
HELD_OUT_SEED = 20_250_513
"""Of the held-out states and of how they are answered: the same for every policy and every run."""
REFERENCES = ("random", "legal_random", "solver")
GREEDY, SAMPLED = "greedy", "sampled"


class HeldOutGame:
    """The held-out states of one game at one level, and how answers there are judged.

    in_training: training plays this level, in other states. paid_rate: the rate that says how often a decision earns
    what training pays for.
    """

    def __init__(self, job: Job, settings: GameSettings, game: Game[Any, Any, Any], *, in_training: bool) -> None:
        """Raises: ValueError where the level has fewer states than the job evaluates on."""
        self.name = f"{game.id}/{level_key(game.level_name)}"
        self.in_training = in_training
        self.paid_rate = settings.reward.paid_rate
        self._job = job
        self._game = game
        self._weights = settings.reward.weights
        self._regrets = Regrets(game)
        self._states = held_out_states(
            game, job.evaluation.num_states, start=settings.start, held_out=settings.held_out, seed=HELD_OUT_SEED
        )
        self.references: dict[str, Mapping[str, float]] = {name: {name: 1.0} for name in REFERENCES}
        if job.cold_start is not None and job.cold_start.data is None:
            self.references["teacher"] = job.teacher(settings)

    def reference(self, name: str) -> PolicyResult:
        """A floor, the ceiling or the teacher on the same states, behind the same protocol as the model."""
        writer = Demonstrator(self._game, self.references[name])
        return {SAMPLED: self.rates([make_engine("scripted", writer=writer)], temperature=1.0)}

    def rates(self, engines: Sequence[Any], temperature: float) -> dict[str, Rate]:
        sampling = Sampling(temperature=temperature, max_tokens=self._job.sampling.max_tokens, seed=HELD_OUT_SEED)
        observation = self._job.prompt.observation
        decisions = decide(engines, self._game, self._states, sampling, self._weights, self._regrets, observation)
        return decision_rates([decision.score for decision in decisions])


class HeldOut:
    """The held-out states of a job's games, and what was measured on them; each result is on disk when it is returned.

    Every game is measured at its level, in states that training never starts in, and at its held-out levels.
    """

    def __init__(self, job: Job, run_dir: Path, *, resume: bool) -> None:
        """resume: keep what the run measured before.

        Raises:
            ValueError: a level has fewer states than the job evaluates on.
        """
        self._job = job
        self._path = run_dir / EVALUATIONS_FILE
        self._games = [
            HeldOutGame(job, settings, game, in_training=number == 0)
            for settings in job.mixture
            for number, game in enumerate(settings.evaluated())
        ]
        self._results = {game.name: dict[str, PolicyResult]() for game in self._games}
        if resume:
            self._results |= _read_results(self._path)

    def measure_references(self) -> None:
        """Teacher, floors and ceiling of each game."""
        for game in self._games:
            for name in game.references:
                if name not in self._results[game.name]:
                    self._results[game.name][name] = game.reference(name)
                    self._write()

    def measure(self, engines: Sequence[Any], point: Point) -> dict[str, float]:
        """The engines' weights, sampled at the training temperature and greedy, as metrics of `point`.

        A metric without a game is the mean over the games at the levels of training, each game alike.
        """
        modes = {SAMPLED: self._job.sampling.temperature, GREEDY: 0.0}
        metrics: dict[str, float] = {}
        common: defaultdict[str, list[float]] = defaultdict(list)
        for game in self._games:
            result = {mode: game.rates(engines, temperature) for mode, temperature in modes.items()}
            self._results[game.name][f"{point.stage}-{point.step:06d}"] = result
            for mode, rates in result.items():
                for name, rate in rates.items():
                    metrics[f"evaluation/{mode}/{GAME}/{game.name}/{name}"] = rate.mean
                    if game.in_training and name != "regret":  # its unit is the game's
                        common[f"evaluation/{mode}/{name}"].append(rate.mean)
        self._write()
        return metrics | {name: fmean(means) for name, means in common.items()}

    def summary(self) -> dict[str, dict[str, PolicyResult]]:
        """By game and level, the measured points under the names of the table."""
        return {game.name: _summary(self._results[game.name], game.paid_rate) for game in self._games}

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        write_summary(partial, self._results)
        os.replace(partial, self._path)


def _summary(measured: Mapping[str, PolicyResult], paid_rate: str) -> dict[str, PolicyResult]:
    """The best point of the cold start is taken per way of decoding, by `paid_rate`."""
    results = dict(measured)
    stages = (COLD_START, GRPO)
    points = {stage: {k: results.pop(k) for k in sorted(results) if k.startswith(f"{stage}-")} for stage in stages}
    summary: dict[str, PolicyResult] = dict(results)
    cold_start, grpo = points[COLD_START], points[GRPO]
    for stage_points in (cold_start, grpo):
        for name, result in stage_points.items():
            if name.endswith("-000000"):
                summary["untrained"] = result
    trained = [result for name, result in cold_start.items() if not name.endswith("-000000")]
    if trained:
        summary["cold_start"] = trained[-1]
        summary["cold_start_best"] = {
            mode: max((result[mode] for result in trained), key=lambda rates: rates[paid_rate].mean)
            for mode in (SAMPLED, GREEDY)
        }
    if grpo:
        summary["grpo"] = list(grpo.values())[-1]
    return summary


def _read_results(path: Path) -> dict[str, dict[str, PolicyResult]]:
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        game: {policy: _read_result(result) for policy, result in of_game.items()} for game, of_game in stored.items()
    }


def _read_result(stored: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> PolicyResult:
    return {mode: {name: Rate(**rate) for name, rate in rates.items()} for mode, rates in stored.items()}
