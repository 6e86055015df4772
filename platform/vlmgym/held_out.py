"""What a run measures on held-out states: references once, its own policy now and then; and the summary of it all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmgym.curves import COLD_START, GRPO
from vlmgym.evals.report import PolicyResult, Rate, decision_rates, write_summary
from vlmgym.evals.runner import decide, held_out_states
from vlmgym.grpo.group_stats import GAME, level_key
from vlmgym.job import Job
from vlmgym.metrics_file import Point
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.insight import Regrets

EVALUATIONS_FILE = "evaluations.json"
HELD_OUT_SEED = 20_250_513
"""Of the held-out states and of how they are answered: the same for every policy and every run."""
GREEDY, SAMPLED = "greedy", "sampled"


class HeldOut:
    """The held-out states of a job, and what was measured on them; each result is on disk when it is returned."""

    def __init__(self, job: Job, run_dir: Path, *, resume: bool) -> None:
        """resume: keep what the run measured before.

        Raises:
            ValueError: the level has fewer states than the job evaluates on.
        """
        self._job = job
        self._path = run_dir / EVALUATIONS_FILE
        self._game = job.make_game()
        self._states = held_out_states(
            self._game,
            job.evaluation.num_states,
            start=job.game.start,
            held_out=job.game.held_out,
            seed=HELD_OUT_SEED,
        )
        self._regrets = Regrets(self._game)
        self._results = _read_results(self._path) if resume else {}

    def measure_references(self) -> None:
        """Teacher, floors and ceiling on the same states, behind the same protocol."""
        policies: dict[str, Mapping[str, float]] = {name: {name: 1.0} for name in ("random", "legal_random", "solver")}
        if self._job.cold_start is not None:
            policies["teacher"] = self._job.cold_start.teacher
        for name, mixture in policies.items():
            if name not in self._results:
                engine = make_engine("scripted", writer=Demonstrator(self._game, mixture))
                self._keep(name, {SAMPLED: self._rates([engine], temperature=1.0)})

    def measure(self, engines: Sequence[Any], point: Point) -> dict[str, float]:
        """The engines' weights, sampled at the training temperature and greedy, as metrics of `point`."""
        modes = {SAMPLED: self._job.sampling.temperature, GREEDY: 0.0}
        result = {mode: self._rates(engines, temperature) for mode, temperature in modes.items()}
        self._keep(f"{point.stage}-{point.step:06d}", result)
        place = f"{GAME}/{self._game.id}/{level_key(self._game.level_name)}"
        metrics: dict[str, float] = {}
        for mode, rates in result.items():
            means = {name: rate.mean for name, rate in rates.items()}
            metrics |= {f"evaluation/{mode}/{place}/{name}": mean for name, mean in means.items()}
            means.pop("regret", None)  # its unit is the game's
            metrics |= {f"evaluation/{mode}/{name}": mean for name, mean in means.items()}
        return metrics

    def summary(self) -> dict[str, PolicyResult]:
        """The measured points under the names of the table. The best point is taken per way of decoding."""
        results = dict(self._results)
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
                mode: max((result[mode] for result in trained), key=lambda rates: rates["legal_move_rate"].mean)
                for mode in (SAMPLED, GREEDY)
            }
        if grpo:
            summary["grpo"] = list(grpo.values())[-1]
        return summary

    def _rates(self, engines: Sequence[Any], temperature: float) -> dict[str, Rate]:
        sampling = Sampling(temperature=temperature, max_tokens=self._job.sampling.max_tokens, seed=HELD_OUT_SEED)
        decisions = decide(
            engines,
            self._game,
            self._states,
            sampling,
            self._job.reward.weights,
            self._regrets,
            self._job.prompt.observation,
        )
        return decision_rates([decision.score for decision in decisions])

    def _keep(self, name: str, result: PolicyResult) -> None:
        self._results[name] = result
        partial = self._path.with_suffix(".partial")
        write_summary(partial, self._results)
        os.replace(partial, self._path)


def _read_results(path: Path) -> dict[str, PolicyResult]:
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        policy: {mode: {name: Rate(**rate) for name, rate in rates.items()} for mode, rates in result.items()}
        for policy, result in stored.items()
    }
