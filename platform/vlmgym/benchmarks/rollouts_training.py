"""Decides how training steps are timed that sample and learn in turn, or at the same time."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ray.rllib.utils.metrics import (
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_UPDATE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

NUM_WARM_UP, NUM_UPDATES = 1, 4
IMPORTANCE_CAP = 2.0
LR = 1e-5


class Update(NamedTuple):
    """One training step, wall seconds: of all of it, of waiting for groups, of learning, of handing out the weights."""

    wall_s: float
    collect_s: float
    learn_s: float
    sync_s: float


def measure_updates(config: Any, max_weights_lag: int) -> list[Update]:
    """NUM_UPDATES training steps of a new algorithm, after NUM_WARM_UP that do not count."""
    config = config.copy(copy_frozen=False)
    config.training(lr=LR, max_weights_lag=max_weights_lag, importance_cap=IMPORTANCE_CAP if max_weights_lag else None)
    algorithm = config.build_algo()
    try:
        return [_update(algorithm) for _ in range(NUM_WARM_UP + NUM_UPDATES)][NUM_WARM_UP:]
    finally:
        algorithm.stop()


def _update(algorithm: Any) -> Update:
    started_s = time.monotonic()
    timers = algorithm.train()[TIMERS]
    wall_s = time.monotonic() - started_s
    names = (ENV_RUNNER_SAMPLING_TIMER, LEARNER_UPDATE_TIMER, SYNCH_WORKER_WEIGHTS_TIMER)
    return Update(wall_s, *(float(timers[name]) for name in names))
