"""Runs a job: cold start, then GRPO, measured on held-out states before, between and after."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vlmgym.checkpoints import Checkpoints, hugging_face_dir
from vlmgym.evals.report import PolicyResult, Rate, decision_rates, print_table, write_summary
from vlmgym.evals.runner import decide, held_out_states
from vlmgym.job import Job, JobError
from vlmgym.metrics_file import Point
from vlmgym.stages import check_stages, cold_start_config, grpo_config, updates_per_iteration
from vlmgym.tracking.step_metrics import cold_start_metrics, grpo_metrics, rollouts_of
from vlmgym.tracking.tracker import Stage, Tracker
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.tiny import make_tiny_vlm

COLD_START = "cold_start"
GRPO = "grpo"
EVALUATIONS_FILE = "evaluations.json"
SUMMARY_FILE = "summary.json"
HELD_OUT_SEED = 20_250_513
"""Of the held-out states and of how they are answered: the same for every policy and every run."""
NUM_TOKENIZER_RESPONSES = 1000


def train_job(job: Job, *, resume: bool = False, console: Console | None = None) -> Path:
    """Trains `job` on the Ray cluster that is connected; returns the run directory.

    resume: go on from the last checkpoint in the run directory, with the same metrics file.

    Raises:
        JobError: the job cannot run as it is written; found before anything is trained.
    """
    check_stages(job)
    try:
        run = _Run(job, resume, console or Console(highlight=False))
    except ValueError as error:
        raise JobError(str(error)) from error
    run.train()
    return job.run_dir


class _Run:
    """One run of a job, or what is left of it after a resume."""

    def __init__(self, job: Job, resume: bool, console: Console) -> None:
        self._job = job
        self._dir = job.run_dir.absolute()
        self._dir.mkdir(parents=True, exist_ok=True)
        self._console = console
        self._game = job.make_game()
        self._states = held_out_states(
            self._game,
            job.evaluation.num_states,
            start=job.game.start,
            held_out=job.game.held_out,
            seed=HELD_OUT_SEED,
        )
        self._checkpoints = Checkpoints(self._dir, [COLD_START, GRPO])
        self._reached = self._checkpoints.latest() if resume else None
        self._results = _read_results(self._dir / EVALUATIONS_FILE) if resume else {}

    def train(self) -> None:
        with Tracker(self._job, resume_after=self._reached, console=self._console) as self._tracker:
            if self._reached:
                self._tracker.say(f"resuming after {self._reached.stage} {self._reached.step}")
            self._measure_references()
            model = self._start_model()
            if self._job.cold_start is not None:
                model = self._cold_start(model)
            self._grpo(model)
            summary = self._summary()
            write_summary(self._dir / SUMMARY_FILE, summary)
            print_table(self._console, summary)
            self._tracker.say(f"results: {self._job.run_dir}")

    def _cold_start(self, model: str) -> str:
        """Returns the model directory that GRPO starts from."""
        settings = self._job.cold_start
        assert settings is not None
        end = Point(COLD_START, settings.updates)
        start = self._done(COLD_START, end)
        if start < end.step:
            per_iteration = updates_per_iteration(self._job)
            with (
                self._algorithm(cold_start_config(self._job, model), COLD_START, start) as algorithm,
                self._tracker.stage(COLD_START, end.step, done=start, line_every=5 * per_iteration) as stage,
            ):
                if start == 0:
                    stage.log(0, self._evaluate(algorithm, Point(COLD_START, 0)))
                for step in range(start + per_iteration, end.step + 1, per_iteration):
                    metrics = cold_start_metrics(algorithm.train())
                    if step % settings.eval_every == 0 or step == end.step:
                        metrics |= self._evaluate(algorithm, Point(COLD_START, step))
                        self._checkpoints.save(algorithm, Point(COLD_START, step), keep=1)
                    stage.log(step, metrics)
        return str(hugging_face_dir(self._checkpoints.path(end)))

    def _grpo(self, model: str) -> None:
        settings = self._job.grpo
        end = Point(GRPO, settings.iterations)
        start = self._done(GRPO, end)
        if start == end.step:
            return
        with (
            self._algorithm(grpo_config(self._job, model), GRPO, start) as algorithm,
            self._tracker.stage(GRPO, end.step, done=start) as stage,
        ):
            if start == 0 and self._job.cold_start is None:
                stage.log(0, self._evaluate(algorithm, Point(GRPO, 0)))
            for step in range(start + 1, end.step + 1):
                self._iterate(algorithm, stage, step, last=step == end.step)

    def _iterate(self, algorithm: Any, stage: Stage, step: int, *, last: bool) -> None:
        settings, tracking = self._job.grpo, self._job.tracking
        started_s = time.monotonic()
        metrics = grpo_metrics(algorithm.train())
        metrics["timing_s/step"] = time.monotonic() - started_s
        if step % settings.eval_every == 0 or last:
            metrics |= self._evaluate(algorithm, Point(GRPO, step))
        stage.log(step, metrics)
        if tracking.num_rollouts and (step % tracking.rollouts_every == 0 or last):
            rollouts = rollouts_of(algorithm.played_groups, tracking.num_rollouts)
            self._tracker.save_rollouts(GRPO, step, rollouts)
        if step % settings.checkpoint_every == 0 or last:
            self._checkpoints.save(algorithm, Point(GRPO, step), settings.keep_checkpoints)

    @contextmanager
    def _algorithm(self, config: Any, stage: str, start: int) -> Iterator[Any]:
        """The stage's algorithm, restored where the run was cut off."""
        self._tracker.say(
            f"{stage}: starting {config.num_engines} engine(s) and {config.num_env_runners} env runner(s)"
        )
        algorithm = config.build_algo()
        try:
            if start > 0:
                algorithm.restore_from_path(str(self._checkpoints.path(Point(stage, start))))
            yield algorithm
        finally:
            algorithm.stop()

    def _done(self, stage: str, end: Point) -> int:
        """Steps of `stage` that the checkpoint holds; all of them where a later stage has begun."""
        if self._reached is None:
            return 0
        if self._reached.stage == stage:
            return self._reached.step
        return end.step if stage == COLD_START else 0

    def _start_model(self) -> str:
        """The model that training starts from; a tiny one is made once per run."""
        if self._job.model.path is not None:
            return self._job.model.path
        path = self._dir / "model"
        if not path.exists():
            demonstrator = Demonstrator(self._game, {"legal_random": 1.0})
            rng = np.random.default_rng(self._job.seed)
            seeds = rng.integers(2**62, size=NUM_TOKENIZER_RESPONSES)
            responses = [demonstrator.demonstrate(self._game.mid_game(int(seed)), rng) for seed in seeds]
            partial = path.with_suffix(".partial")
            make_tiny_vlm(partial, prompts=[self._game.prompt], responses=responses, seed=self._job.seed)
            os.replace(partial, path)
        return str(path)

    def _measure_references(self) -> None:
        """Teacher, floors and ceiling on the same states, behind the same protocol."""
        policies: dict[str, Mapping[str, float]] = {name: {name: 1.0} for name in ("random", "legal_random", "solver")}
        if self._job.cold_start is not None:
            policies["teacher"] = self._job.cold_start.teacher
        for name, mixture in policies.items():
            if name not in self._results:
                engine = make_engine("scripted", writer=Demonstrator(self._game, mixture))
                self._keep(name, {"sampled": self._rates([engine], temperature=1.0)})

    def _evaluate(self, algorithm: Any, point: Point) -> dict[str, float]:
        """Measures the engines' weights, sampled at the training temperature and greedy; keeps and returns it."""
        modes = {"sampled": self._job.sampling.temperature, "greedy": 0.0}
        result = {mode: self._rates(algorithm.engines, temperature) for mode, temperature in modes.items()}
        self._keep(f"{point.stage}-{point.step:06d}", result)
        return {
            f"evaluation/{mode}/{name}": rate.mean for mode, rates in result.items() for name, rate in rates.items()
        }

    def _rates(self, engines: Sequence[Any], temperature: float) -> dict[str, Rate]:
        sampling = Sampling(temperature=temperature, max_tokens=self._job.sampling.max_tokens, seed=HELD_OUT_SEED)
        decisions = decide(engines, self._game, self._states, sampling, self._job.reward.weights)
        return decision_rates([decision.score for decision in decisions])

    def _keep(self, name: str, result: PolicyResult) -> None:
        self._results[name] = result
        partial = self._dir / f"{EVALUATIONS_FILE}.partial"
        write_summary(partial, self._results)
        os.replace(partial, self._dir / EVALUATIONS_FILE)

    def _summary(self) -> dict[str, PolicyResult]:
        """The measured points under the names of the table. The best point is taken per way of decoding."""
        results = dict(self._results)
        points = {stage: {k: results.pop(k) for k in sorted(results) if k.startswith(f"{stage}-")} for stage in STAGES}
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
                for mode in ("sampled", "greedy")
            }
        if grpo:
            summary["grpo"] = list(grpo.values())[-1]
        return summary


STAGES = (COLD_START, GRPO)


def _read_results(path: Path) -> dict[str, PolicyResult]:
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        policy: {mode: {name: Rate(**rate) for name, rate in rates.items()} for mode, rates in result.items()}
        for policy, result in stored.items()
    }
