"""What a cold start imitates: questions with a teacher's responses, written on the spot or read from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vlmgym.dataset.directory import DataSet, prompt_of
from vlmgym_envs.core import Game
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_envs.splits import draw_start, in_held_out
from vlmgym_policies.engine import Prompt
from vlmgym_policies.prompting import Observation

START_STREAM = 1
ORDER_STREAM = 2


class Demonstration(NamedTuple):
    """A question, and a whole response to it."""

    prompt: Prompt
    response: str


class Demonstrations(Protocol):
    """An endless row of demonstrations; the i-th one depends on the seed and on i alone."""

    def __call__(self, index: int) -> Demonstration: ...


class Start(NamedTuple):
    """Where a demonstration begins: `draw_start` gives the state for this seed. rng: for what comes after."""

    seed: int
    state: Any
    rng: np.random.Generator


def start_of(game: Game[Any, Any, Any], env: GroupEnvConfig, seed: int, index: int) -> Start:
    """The i-th start of a seed, never a held-out one."""
    rng = np.random.default_rng([seed, START_STREAM, index])
    start_seed = int(rng.integers(2**62))
    return Start(start_seed, draw_start(game, start_seed, env.start, env.split, env.held_out), rng)


class StoredDemonstrations:
    """The training rows of a data set, in another order each time around."""

    def __init__(self, path: str, *, seed: int) -> None:
        """Errors: BadInput where `path` is no data set."""
        self._data = DataSet(Path(path))
        self._rows = self._data.rows("train")
        self._seed = seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def __call__(self, index: int) -> Demonstration:
        epoch, place = divmod(index, len(self._rows))
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, ORDER_STREAM, epoch])
            self._epoch, self._order = epoch, rng.permutation(len(self._rows))
        row = self._rows[self._order[place]]
        image = self._data.image_path("train", row).read_bytes()
        return Demonstration(prompt_of(row.prompt, image), row.response)


def check_stored(path: str, env: GroupEnvConfig, observation: Observation) -> None:
    """Raises ValueError where a data set has no row of the game, shows its boards in another way, or holds states that
    the environment keeps for evaluation."""
    data = DataSet(Path(path))
    sources = [source for source in data.about.recipe.sources if source.game == env.game]
    rows = [row for row in data.rows("train") if row.game == env.game]
    if not rows:
        raise ValueError(f"data: {path} has no training row of {env.game}")
    shown = {source.observation for source in sources}
    if shown != {observation}:
        raise ValueError(f"data: {path} shows {', '.join(sorted(shown))}, and the job's prompts {observation}")
    num_held_out = sum(in_held_out(bytes.fromhex(row.key), env.held_out) for row in rows)
    if num_held_out:
        raise ValueError(
            f"data: {num_held_out} states of {path} are held out by this job: make it with held_out {env.held_out:g}"
        )
