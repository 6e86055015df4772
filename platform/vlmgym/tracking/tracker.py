"""Decides what becomes of what a run tells: files in its directory, the console, and the places that people watch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlmgym.curves import GRPO, draw_curves
from vlmgym.job import Job
from vlmgym.metrics_file import METRICS_FILE, MetricsFile, Point
from vlmgym.tracking.alerts import Alarms
from vlmgym.tracking.group_record import GroupWithPictures, rollouts_dir, write_groups
from vlmgym.tracking.prometheus import Prometheus
from vlmgym.tracking.replays import Replay
from vlmgym.tracking.sink import Sink
from vlmgym.tracking.tensorboard import TensorBoard
from vlmgym.tracking.wandb_run import NoWandb, WandbRun, wandb_mode

CURVES_FILE = "curves.png"
CURVES_EVERY_S = 120.0

CONSOLE_METRICS = {
    "loss": ("loss", "{:.3f}"),
    "reward": ("reward", "{:+.2f}"),
    "legal_move_rate": ("legal", "{:.1%}"),
    "format_rate": ("format", "{:.1%}"),
    "perception_board": ("board", "{:.1%}"),
    "kl": ("kl", "{:.4f}"),
    "entropy": ("entropy", "{:.3f}"),
    "evaluation/sampled/legal_move_rate": ("held-out legal sampled", "{:.1%}"),
    "evaluation/greedy/legal_move_rate": ("greedy", "{:.1%}"),
}
"""What a line on the console shows of the metrics of a step, in this order: label and format."""


class Tracker:
    """Everything a run leaves behind, besides checkpoints."""

    def __init__(self, job: Job, *, resume_after: Point | None = None, console: Console | None = None) -> None:
        """resume_after: the point a resumed run goes on from; metrics of later steps are dropped."""
        self._run_dir = job.run_dir
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._console = console or Console(highlight=False)
        self._settings = job.tracking
        self._alarms = Alarms(job.tracking.alerts)
        self._wandb = self._start_wandb(job)
        self._sinks = [*self._start_sinks(job, resume_after), self._wandb]
        self._drawn_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def stage(self, name: str, total: int, *, done: int = 0, line_every: int = 1) -> Iterator[Stage]:
        """A stage of `total` steps, `done` of them before this process, with its own bar and step axis.

        line_every: steps between lines on the console; a step with an evaluation always has one.
        """
        self._wandb.start_stage(name)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as bar:
            yield Stage(self, bar, name, total, done, line_every)
        self.save_curves()

    def say(self, text: str) -> None:
        """One line on the console, above the bar."""
        self._console.print(text, soft_wrap=True, markup=False)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Hands metrics to everyone, with the alerts that they raise; redraws the curves now and then."""
        alerts = self._alarms.check(stage, step, metrics) if stage == GRPO else []
        if stage == GRPO:
            metrics = {**metrics, "num_alerts": self._alarms.num_alerts}
        for sink in self._sinks:
            sink.log(stage, step, metrics)
        for alert in alerts:
            self.say(f"ALERT {alert.title}: {alert.text}")
            self._wandb.alert(alert)
        if time.monotonic() - self._drawn_s > CURVES_EVERY_S:
            self.save_curves()

    def save_groups(self, point: Point, groups: Sequence[GroupWithPictures]) -> Path:
        """Writes `rollouts/STAGE-STEP/`, as `write_groups` says. Returns that folder."""
        folder = rollouts_dir(self._run_dir, point)
        write_groups(folder, groups)
        self._wandb.log_groups(point, groups)
        return folder

    def save_replays(self, stage: str, step: int, replays: Sequence[Replay]) -> list[Path]:
        """Films them to `replays/STAGE-STEP-NUMBER.mp4`."""
        from vlmgym.evals.video import write_video

        folder = self._run_dir / "replays"
        films = [folder / f"{stage}-{step:04d}-{run.run}.mp4" for _, run in replays]
        if films:
            folder.mkdir(exist_ok=True)
            for film, replay in zip(films, replays, strict=True):
                write_video(replay.game, f"{stage} {step}", replay.run, film)
            self._wandb.log_replays(stage, step, films)
        return films

    def use_model(self, path: str) -> None:
        """The model that the run starts from."""
        self._wandb.use_model(path)

    def log_checkpoint(self, point: Point, path: Path) -> None:
        """Makes a checkpoint known as an artifact."""
        if self._settings.checkpoints != "off":
            self._wandb.log_checkpoint(point, path, self._settings.checkpoints)

    def save_curves(self) -> None:
        draw_curves(self._run_dir / METRICS_FILE, self._run_dir / CURVES_FILE)
        self._drawn_s = time.monotonic()

    def close(self) -> None:
        self.save_curves()
        for sink in self._sinks:
            sink.close()

    def _start_sinks(self, job: Job, resume_after: Point | None) -> Iterator[Sink]:
        path = self._run_dir / METRICS_FILE
        yield MetricsFile.resumed(path, resume_after) if resume_after else MetricsFile(path)
        if job.tracking.tensorboard:
            yield TensorBoard(self._run_dir, resume_after)
        if job.tracking.prometheus and ray.is_initialized():
            yield Prometheus(job.run_name)

    def _start_wandb(self, job: Job) -> WandbRun | NoWandb:
        mode = wandb_mode(job.tracking)
        if mode == "off":
            return NoWandb()
        try:
            return WandbRun(job, mode)
        except Exception as error:
            if mode != "online":
                raise
            self.say(f"wandb cannot be reached ({str(error).splitlines()[0]}): recording offline")
            return WandbRun(job, "offline")


class Stage:
    """Logs the steps of one stage and moves its bar."""

    def __init__(self, tracker: Tracker, bar: Progress, name: str, total: int, done: int, line_every: int) -> None:
        self._tracker = tracker
        self._bar = bar
        self._name = name
        self._total = total
        self._done = done
        self._line_every = line_every
        self._task = bar.add_task(name, total=total, completed=done)
        self._started_s = time.monotonic()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records metrics of step `step`, counted from 1; 0 is before the first. May be called twice for a step."""
        self._tracker.log(self._name, step, metrics)
        self._bar.update(self._task, completed=step)
        evaluated = any(name.startswith("evaluation/") for name in metrics)
        if evaluated or step % self._line_every == 0 or step == self._total:
            self._tracker.say(self._line(step, metrics))

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        shown = [
            f"{label} {form.format(metrics[name])}"
            for name, (label, form) in CONSOLE_METRICS.items()
            if name in metrics
        ]
        elapsed_s = time.monotonic() - self._started_s
        left = f"{_clock(elapsed_s)} elapsed"
        if self._done < step < self._total:
            left += f", {_clock(elapsed_s / (step - self._done) * (self._total - step))} left"
        return " | ".join([f"{self._name} {step}/{self._total}", *shown, left])


def _clock(seconds: float) -> str:
    """61.0 -> '1:01'; 3661.0 -> '1:01:01'"""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
