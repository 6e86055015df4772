"""One run of a job: cold start, then GRPO, measured on held-out states before, between and after."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from vlmgym.checkpoint_writer import CheckpointWriter
from vlmgym.checkpoints import Checkpoints, hugging_face_dir
from vlmgym.curves import COLD_START, GRPO
from vlmgym.evals.report import print_table, write_summary
from vlmgym.grpo.collector import Interrupted
from vlmgym.grpo.runner import PlayedGroup
from vlmgym.held_out import HeldOut
from vlmgym.job import Job
from vlmgym.metrics_file import Point
from vlmgym.remote_copy import RemoteCopy
from vlmgym.serving.evaluating import EvaluationService
from vlmgym.stages import cold_start_config, grpo_config, updates_per_iteration
from vlmgym.start_model import start_model
from vlmgym.storage import Storage
from vlmgym.tracking.played_groups import record_group
from vlmgym.tracking.replays import replays_of
from vlmgym.tracking.step_metrics import step_metrics
from vlmgym.tracking.tracker import Stage, Tracker
from vlmgym_envs.core import Game

SUMMARY_FILE = "summary.json"


class Run:
    """A run from its start, or what is left of it after a resume.

    reached: the last step that was done.
    """

    def __init__(
        self, job: Job, console: Console, *, resume: bool, num_restarts: int = 0, stop: threading.Event | None = None
    ) -> None:
        """stop: ends the run early once it is set. Raises: ValueError where the level has fewer states than the job
        evaluates on."""
        self._job = job
        self._dir = job.run_dir.absolute()
        self._dir.mkdir(parents=True, exist_ok=True)
        self._console = console
        self._num_restarts = num_restarts
        self._stop = stop or threading.Event()
        self._held_out = HeldOut(job, self._dir, resume=resume)
        self._checkpoints = checkpoints_of(job)
        self._copy = RemoteCopy(self._dir, Storage.at(job.location))
        self._service = EvaluationService(job)
        self.reached = self._checkpoints.latest() if resume else None

    def train(self) -> None:
        """Returns when the job is done, or stopped."""
        with (
            Tracker(self._job, resume_after=self.reached, console=self._console) as self._tracker,
            self._service,
        ):
            if self.reached:
                self._tracker.say(f"resuming after {self.reached.stage} {self.reached.step}")
            try:
                self._stages()
            except _Stopped:
                where = f"after {self.reached.stage} {self.reached.step}" if self.reached else "before any step"
                self._tracker.say(f"stopped {where}; --resume goes on")
        self._copy.update()

    def _stages(self) -> None:
        self._held_out.measure_references()
        model = start_model(self._job, self._dir)
        self._tracker.use_model(model)
        if self._job.cold_start is not None:
            model = self._cold_start(model)
        self._grpo(model)
        summary = self._held_out.summary()
        write_summary(self._dir / SUMMARY_FILE, summary)
        for game, results in summary.items():
            print_table(self._console, game, results)
        self._tracker.say(f"results: {self._job.location}")

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
                while algorithm.num_updates < end.step:
                    self._leave_if_stopped()
                    try:
                        self._warm_up(algorithm, stage, end.step)
                    except Interrupted:
                        self.reached = Point(COLD_START, algorithm.num_updates)
                        self._leave_if_stopped()
        return self._model_of(end)

    def _model_of(self, point: Point) -> str:
        """The model directory inside a checkpoint, on this machine."""
        model = hugging_face_dir(self._checkpoints.path(point))
        if not self._job.is_remote:
            return model.path
        here = hugging_face_dir(Checkpoints(Storage.at(self._dir), [point.stage]).path(point))
        here.delete()
        model.copy_to(here)
        return here.path

    def _warm_up(self, algorithm: Any, stage: Stage, last: int) -> None:
        """One iteration of the cold start: some updates."""
        settings = self._job.cold_start
        assert settings is not None
        metrics = step_metrics(COLD_START, algorithm.train())
        step = algorithm.num_updates
        point, is_measured = Point(COLD_START, step), step % settings.eval_every == 0 or step == last
        if is_measured:
            metrics |= self._measure(algorithm, point, metrics)
        stage.log(step, metrics)
        self.reached = point
        if is_measured:
            self._save(point, metrics)

    def _grpo(self, model: str) -> None:
        settings = self._job.grpo
        end = Point(GRPO, settings.iterations)
        start = self._done(GRPO, end)
        if start >= end.step:
            return
        with (
            self._algorithm(grpo_config(self._job, model), GRPO, start) as algorithm,
            self._tracker.stage(GRPO, end.step, done=start) as stage,
        ):
            if start == 0 and self._job.cold_start is None:
                stage.log(0, self._held_out.measure(algorithm.engines, Point(GRPO, 0)))
            for step in range(start + 1, end.step + 1):
                self._leave_if_stopped()
                try:
                    self._iterate(algorithm, stage, step, last=step == end.step)
                except Interrupted:
                    self._leave_if_stopped()

    def _iterate(self, algorithm: Any, stage: Stage, step: int, *, last: bool) -> None:
        settings, tracking, point = self._job.grpo, self._job.tracking, Point(GRPO, step)
        started_s = time.monotonic()
        metrics = step_metrics(GRPO, algorithm.train()) | {"num_restarts": self._num_restarts}
        metrics["timing_s/step"] = duration_s = time.monotonic() - started_s
        metrics["perf/tokens_per_s"] = metrics["num_tokens"] / duration_s
        if step % settings.eval_every == 0 or last:
            metrics |= self._measure(algorithm, point, metrics)
        stage.log(step, metrics)
        self.reached = point
        if step % tracking.rollouts_every == 0 or last:
            self._show(algorithm, point)
        if step % self._job.checkpoints.every == 0 or last:
            self._save(point, metrics)

    def _show(self, algorithm: Any, point: Point) -> None:
        """Keeps some groups of a batch to look at, and films of branches with more than one decision."""
        tracking = self._job.tracking
        played: Sequence[PlayedGroup] = algorithm.played_groups
        rule = algorithm.config.advantage_rule
        kept = [record_group(group, self._game_of(group), rule, point) for group in played[: tracking.num_rollouts]]
        if kept:
            self._tracker.save_groups(point, kept)
        self._tracker.save_replays(GRPO, point.step, replays_of(played, self._game_of, tracking.num_replays))

    def _game_of(self, group: PlayedGroup) -> Game[Any, Any, Any]:
        """What a group was played in."""
        return self._job.mixture[group.task.game].make(**group.task.knobs)

    def _measure(self, algorithm: Any, point: Point, metrics: Mapping[str, float]) -> dict[str, float]:
        """By the training's engines, or on Serve, which takes a checkpoint of the point."""
        if not self._job.evaluation.serve_replicas:
            return self._held_out.measure(algorithm.engines, point)
        self._save(point, metrics)
        self._writer.wait()
        model = Path(self._model_of(point))
        measured = self._held_out.measure([self._service.endpoint(model)], point)
        self._writer.rate(point, measured)
        return measured

    def _save(self, point: Point, metrics: Mapping[str, float]) -> None:
        """Once per point. Metrics go first: a run that is resumed after a checkpoint has them up to there."""
        if point != self._writer.newest:
            self._copy.update()
            self._writer.save(point, metrics)

    def _log_checkpoint(self, point: Point) -> None:
        if not self._job.is_remote:
            self._tracker.log_checkpoint(point, Path(self._checkpoints.path(point).path))

    def _leave_if_stopped(self) -> None:
        """Raises _Stopped, with a checkpoint of all that was done, where the run is to end early."""
        if not self._stop.is_set():
            return
        if self.reached is not None and self.reached not in (self._restored, self._writer.newest):
            self._save(self.reached, {})
        raise _Stopped

    @contextmanager
    def _algorithm(self, config: Any, stage: str, start: int) -> Iterator[Any]:
        """The stage's algorithm, restored where the run was cut off; its last checkpoint is whole at the end."""
        self._tracker.say(
            f"{stage}: starting {config.num_engines} engine(s) and {config.num_env_runners} env runner(s)"
        )
        algorithm = config.build_algo()
        settings = self._job.checkpoints
        self._writer = CheckpointWriter(
            algorithm,
            self._checkpoints,
            settings.best_metric,
            asynchronous=settings.asynchronous,
            on_written=self._log_checkpoint,
        )
        self._restored = self.reached
        try:
            if start > 0:
                place = self._checkpoints.path(Point(stage, start))
                algorithm.restore_from_path(place.path, filesystem=place.filesystem)
            algorithm.interrupt_on(self._stop)
            try:
                yield algorithm
            finally:
                self._writer.wait()
        finally:
            algorithm.stop()

    def _done(self, stage: str, end: Point) -> int:
        """Steps of `stage` that the checkpoint holds; all of them where a later stage has begun."""
        if self.reached is None:
            return 0
        if self.reached.stage == stage:
            return self.reached.step
        return end.step if stage == COLD_START else 0


def checkpoints_of(job: Job) -> Checkpoints:
    """The checkpoints in a job's run directory."""
    settings = job.checkpoints
    return Checkpoints(Storage.at(job.location), [COLD_START, GRPO], settings.keep, settings.best)


def is_finished(job: Job) -> bool:
    """Whether the job's run directory holds all that the job asks for."""
    ends = {GRPO: job.grpo.iterations, COLD_START: job.cold_start.updates if job.cold_start else 0}
    latest = checkpoints_of(job).latest()
    if latest is None or not (job.run_dir / SUMMARY_FILE).exists():
        return False
    return latest.step >= ends[latest.stage] and (latest.stage == GRPO or not ends[GRPO])


class _Stopped(Exception):
    """The run ends early, as it was asked to; what it has done is in a checkpoint."""
