"""Decides what the benchmark of rollouts compares: an engine alone, behind its actor, and behind the platform."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vlmgym.benchmarks.ray_session import ray_session
from vlmgym.benchmarks.rollouts_asking import BareEngine, Load, Window
from vlmgym.benchmarks.rollouts_figures import (
    Figures,
    RatioFigure,
    WorkloadFigure,
    length_figure,
    ratio_figure,
    rollout_figure,
    update_figure,
)
from vlmgym.benchmarks.rollouts_platform import PlatformRollouts, RolloutRunner
from vlmgym.benchmarks.rollouts_training import Update, measure_updates
from vlmgym.benchmarks.rollouts_workload import (
    NUM_TURNS,
    RolloutEnv,
    branches_of,
    env_config,
    make_endless_vlm,
)
from vlmgym.grpo.config import GRPOConfig

KINDS = ("bare", "actor", "lock_step", "no_barrier")
MEASURED_IN_TURN = ("lock_step", "no_barrier", "bare", "actor")
"""What is compared is measured one right after the other."""
RATIOS = (("actor", "bare"), ("no_barrier", "bare"), ("no_barrier", "lock_step"))
LAGS = (0, 1)
TRAINING_REPEATS = 2
NUM_CPUS = 4
"""Of a Ray that is started here: engine and learner have a thread each, the others take little."""
WRITTEN_GROUPS_PER_S = 12
"""Groups whose requests are written down before an engine alone is asked, per second of measuring."""
ENGINE_OPTIONS: dict[str, dict[str, Any]] = {"hf": {}, "vllm": {"max_model_len": 1088, "block_size": 32}}
"""What the engines need on a CPU."""

ENGINES_IN_ONE_PROCESS = {"hf"}

Progress = Callable[[int, int, str], None]
"""Called with done, total and what is next."""


class Settings(NamedTuple):
    """What is asked, and for how long. As many requests are in flight as there are branches in the groups in flight."""

    seconds: float
    groups_in_flight: int
    group_size: int
    repeats: int
    engine: str
    training: bool

    @property
    def num_in_flight(self) -> int:
        return self.groups_in_flight * self.group_size

    @property
    def load(self) -> Load:
        """Of an engine alone; the warm-up is as many answers as the groups in flight need."""
        per_group = self.group_size * NUM_TURNS
        return Load(self.num_in_flight, per_group, self.groups_in_flight * per_group, self.seconds)

    @property
    def engine_options(self) -> dict[str, Any]:
        return {"max_batch_size": self.num_in_flight, **ENGINE_OPTIONS[self.engine]}

    def config(self, model: str) -> GRPOConfig:
        """A core for the engine and one for the learner, which is in this process."""
        config = GRPOConfig().environment(RolloutEnv, env_config=env_config(self.group_size)).vlm(model)
        config.training(num_groups_per_train_batch=self.groups_in_flight, max_dropped_groups=0)
        config.env_runners(
            env_runner_cls=RolloutRunner,
            num_env_runners=1,
            num_envs_per_env_runner=self.groups_in_flight,
            num_cpus_per_env_runner=0,
        )
        config.learners(num_learners=0, num_cpus_per_learner=1)
        config.engines(engine_type=self.engine, engine_options=self.engine_options, num_cpus_per_engine=1)
        return config.debugging(seed=0, log_level="ERROR")


def measure(settings: Settings, progress: Progress) -> Figures:
    """Every figure. Measurements of the kinds take turns, since what else a machine does changes."""
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    num_updates = TRAINING_REPEATS * len(LAGS) if settings.training else 0
    total = settings.repeats * len(KINDS) + num_updates
    with tempfile.TemporaryDirectory(prefix="vlmgym-") as folder, ray_session(NUM_CPUS):
        model = str(make_endless_vlm(Path(folder) / "model"))
        windows = _measure_rollouts(settings, settings.config(model), lambda done, what: progress(done, total, what))
        updates: dict[int, list[list[Update]]] = {lag: [] for lag in LAGS}
        for number in range(num_updates):
            lag = LAGS[number % len(LAGS)]
            progress(total - num_updates + number, total, f"training, lag {lag}")
            updates[lag].append(measure_updates(settings.config(model), lag))
    in_one_process = settings.engine in ENGINES_IN_ONE_PROCESS
    workload = WorkloadFigure(settings.engine, settings.num_in_flight, settings.group_size, NUM_TURNS)
    return Figures(
        [workload],
        [rollout_figure(kind, windows[kind], in_one_process=in_one_process) for kind in KINDS],
        [length_figure(kind, windows[kind]) for kind in KINDS],
        [update_figure(lag, updates[lag]) for lag in LAGS if updates[lag]],
        _ratios(windows, updates, in_one_process=in_one_process),
    )


def _measure_rollouts(
    settings: Settings, config: GRPOConfig, progress: Callable[[int, str], None]
) -> dict[str, list[Window]]:
    """Windows by kind, one per repeat. Each measurement has boards of its own."""
    progress(0, "starting")
    load, seconds = settings.load, settings.seconds
    num_groups = int(settings.groups_in_flight + seconds * WRITTEN_GROUPS_PER_S)
    windows: dict[str, list[Window]] = {kind: [] for kind in KINDS}
    options = {"path": config.model_config["path"], "dtype": "float32", **settings.engine_options}
    with BareEngine(settings.engine, options) as bare, PlatformRollouts(config) as platform:
        measurements: dict[str, Callable[[int], Window]] = {
            "bare": lambda deal: bare.measure(branches_of(config, deal, num_groups), load),
            "actor": lambda deal: platform.ask_actor(branches_of(config, deal, num_groups), load),
            "lock_step": lambda deal: platform.lock_step(deal, seconds),
            "no_barrier": lambda deal: platform.no_barrier(deal, seconds),
        }
        for deal in range(settings.repeats * len(KINDS)):
            kind = MEASURED_IN_TURN[deal % len(KINDS)]
            progress(deal, kind.replace("_", " "))
            windows[kind].append(measurements[kind](deal))
    return windows


def _ratios(
    windows: dict[str, list[Window]], updates: dict[int, list[list[Update]]], *, in_one_process: bool
) -> list[RatioFigure]:
    seconds: dict[str, Callable[[Window], float]] = {"tokens_per_s": lambda window: window.seconds}
    if in_one_process:
        seconds["tokens_per_cpu_s"] = lambda window: window.engine_cpu_s
    ratios = []
    for unit, seconds_of in seconds.items():
        rates = {kind: [window.num_tokens / seconds_of(window) for window in windows[kind]] for kind in KINDS}
        ratios += [ratio_figure(f"{above} / {below}", unit, rates[above], rates[below]) for above, below in RATIOS]
    if updates[0]:
        walls = {lag: [update_figure(lag, [one]).wall_s for one in updates[lag]] for lag in LAGS}
        ratios.append(ratio_figure("lag 0 / lag 1", "wall_s", walls[0], walls[1]))
    return ratios
