"""Decides what an evaluation plays and how a run is counted; docs/evaluation.md says it in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

Protocol = Literal["paper", "full"]
ScoreRule = Literal["reward_sum", "positive_steps"]

MAX_STEPS: Mapping[Protocol, int] = {"paper": 100, "full": 10_000}
"""Steps after which a run ends at the latest, unless the evaluation says otherwise."""

CEILINGS = ("legal_random", "greedy", "solver")
"""Teachers that every evaluation is set beside."""


def start_seed(seed: int, run: int) -> int:
    """What `Game.init` gets in run `run` of an evaluation with this seed."""
    return _derived(seed, run, 0)


def answer_seed(seed: int, run: int, step: int) -> int:
    """The seed of the policy's answer in a step, counted from 0. No other run or step has a part in it."""
    return _derived(seed, run, 1 + step)


def points(rule: ScoreRule, reward: float) -> float:
    """What a step adds to the score of its run."""
    return reward if rule == "reward_sum" else float(reward > 0)


def _derived(*path: int) -> int:
    """53 bits, which every reader of JSON keeps."""
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0]) >> 11
