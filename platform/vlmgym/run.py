"""One run of a job: cold start, then GRPO, measured on held-out states before, between and after."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console

from vlmgym.checkpoints import Checkpoints, hugging_face_dir
from vlmgym.curves import COLD_START, GRPO
from vlmgym.evals.report import print_table, write_summary
from vlmgym.grpo.runner import PlayedGroup
from vlmgym.held_out import HeldOut
from vlmgym.job import Job
from vlmgym.metrics_file import Point
from vlmgym.serving.evaluating import EvaluationService
from vlmgym.stages import cold_start_config, grpo_config, updates_per_iteration
from vlmgym.tracking.rollouts import replays_of, rollouts_of
from vlmgym.tracking.step_metrics import step_metrics
from vlmgym.tracking.tracker import Stage, Tracker
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.prompting import instruction
from vlmgym_policies.tiny import make_tiny_vlm

SUMMARY_FILE = "summary.json"
NUM_TOKENIZER_RESPONSES = 1000


class Run:
    """A run from its start, or what is left of it after a resume."""

    def __init__(self, job: Job, console: Console, *, resume: bool) -> None:
        """Raises: ValueError where the level has fewer states than the job evaluates on."""
        self._job = job
        self._dir = job.run_dir.absolute()
        self._dir.mkdir(parents=True, exist_ok=True)
        self._console = console
        self._held_out = HeldOut(job, self._dir, resume=resume)
        self._checkpoints = Checkpoints(self._dir, [COLD_START, GRPO])
        self._reached = self._checkpoints.latest() if resume else None
        self._saved: Point | None = None
        self._service = EvaluationService(job)

    def train(self) -> None:
        with (
            Tracker(self._job, resume_after=self._reached, console=self._console) as self._tracker,
            self._service,
        ):
            if self._reached:
                self._tracker.say(f"resuming after {self._reached.stage} {self._reached.step}")
            self._held_out.measure_references()
            model = self._start_model()
            self._tracker.use_model(model)
            if self._job.cold_start is not None:
                model = self._cold_start(model)
            self._grpo(model)
            summary = self._held_out.summary()
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
                    stage.log(0, self._held_out.measure(algorithm.engines, Point(COLD_START, 0)))
                for step in range(start + per_iteration, end.step + 1, per_iteration):
                    metrics = step_metrics(COLD_START, algorithm.train())
                    if step % settings.eval_every == 0 or step == end.step:
                        metrics |= self._measure(algorithm, Point(COLD_START, step), keep=1)
                        self._checkpoint(algorithm, Point(COLD_START, step), keep=1)
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
                stage.log(0, self._held_out.measure(algorithm.engines, Point(GRPO, 0)))
            for step in range(start + 1, end.step + 1):
                self._iterate(algorithm, stage, step, last=step == end.step)

    def _iterate(self, algorithm: Any, stage: Stage, step: int, *, last: bool) -> None:
        settings, tracking = self._job.grpo, self._job.tracking
        started_s = time.monotonic()
        metrics = step_metrics(GRPO, algorithm.train())
        metrics["timing_s/step"] = duration_s = time.monotonic() - started_s
        metrics["perf/tokens_per_s"] = metrics["num_tokens"] / duration_s
        if step % settings.eval_every == 0 or last:
            metrics |= self._measure(algorithm, Point(GRPO, step), settings.keep_checkpoints)
        stage.log(step, metrics)
        if step % tracking.rollouts_every == 0 or last:
            self._show(algorithm.played_groups, step)
        if step % settings.checkpoint_every == 0 or last:
            self._checkpoint(algorithm, Point(GRPO, step), settings.keep_checkpoints)

    def _show(self, groups: Sequence[PlayedGroup], step: int) -> None:
        """Keeps some decisions of a batch to look at, and films of what has more than one."""
        game, tracking = self._job.make_game(), self._job.tracking
        if tracking.num_rollouts:
            self._tracker.save_rollouts(GRPO, step, rollouts_of(groups, game, tracking.num_rollouts))
        self._tracker.save_replays(GRPO, step, game, replays_of(groups, game, tracking.num_replays))

    def _measure(self, algorithm: Any, point: Point, keep: int) -> dict[str, float]:
        """By the training's engines, or on Serve, which takes a checkpoint of the point."""
        if not self._job.evaluation.serve_replicas:
            return self._held_out.measure(algorithm.engines, point)
        self._checkpoint(algorithm, point, keep)
        model = hugging_face_dir(self._checkpoints.path(point))
        return self._held_out.measure([self._service.endpoint(model)], point)

    def _checkpoint(self, algorithm: Any, point: Point, keep: int) -> None:
        """Once per point."""
        if point != self._saved:
            self._tracker.log_checkpoint(point, self._checkpoints.save(algorithm, point, keep))
            self._saved = point

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
            game = self._job.make_game()
            demonstrator = Demonstrator(game, {"legal_random": 1.0})
            rng = np.random.default_rng(self._job.seed)
            seeds = rng.integers(2**62, size=NUM_TOKENIZER_RESPONSES)
            responses = [demonstrator.demonstrate(game.mid_game(int(seed)), rng) for seed in seeds]
            partial = path.with_suffix(".partial")
            prompts = [instruction(game, self._job.prompt.observation)]
            make_tiny_vlm(partial, prompts=prompts, responses=responses, seed=self._job.seed)
            os.replace(partial, path)
        return str(path)
