"""Decides what the next group plays: a game of the mixture, at a level where the curriculum of that game stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vlmgym.grpo.curriculum import Curriculum, Probe
from vlmgym.grpo.group_stats import GroupStats, success_rate
from vlmgym.grpo.mixture import Mixture

LEVEL_STREAM = 2


class Task(NamedTuple):
    """What a group plays. game: its number in the mixture. knobs: over those of its level. probe: what it tells of."""

    game: int = 0
    knobs: Mapping[str, Any] = {}
    probe: Probe | None = None


FIRST_GAME = Task()


class Tasks:
    """Hands out tasks by weight, and moves curricula by what came of them.

    A group that is not learned from is replaced by one of its game, so that batches keep the shares of the mixture also
    where one game meets more faults, or has more groups of equal rewards, than another.
    """

    def __init__(self, config: Any) -> None:
        self._seed = config.seed or 0
        self._mixture = Mixture(config.weights_of_games)
        self._ladders = config.ladders_of_games
        self._curricula = {game: Curriculum(ladder) for game, ladder in self._ladders.items()}
        self._num_drawn = 0
        self._owed: list[int] = []

    def draw(self, group_id: int) -> Task:
        """The task of a new group."""
        if self._owed:
            game = self._owed.pop(0)
        else:
            game = self._mixture.game(self._num_drawn)
            self._num_drawn += 1
        if game not in self._curricula:
            return Task(game)
        place = self._curricula[game].draw(np.random.default_rng([self._seed, LEVEL_STREAM, group_id]))
        return Task(game, place.knobs, place.probe)

    def replace(self, task: Task) -> None:
        """Another group of this task's game is to be drawn instead."""
        self._owed.append(task.game)

    def record(self, task: Task, stats: GroupStats) -> None:
        """Counts a group that was played for the axis that it probed."""
        if task.probe is not None:
            self._curricula[task.game].record(task.probe, success_rate(stats, self._ladders[task.game].success))

    @property
    def metrics(self) -> dict[int, dict[str, dict[str, float]]]:
        """Where each axis stands, by the number of its game."""
        return {game: curriculum.metrics for game, curriculum in self._curricula.items()}

    def get_state(self) -> dict[str, Any]:
        curricula = {game: curriculum.get_state() for game, curriculum in self._curricula.items()}
        return {"num_drawn": self._num_drawn, "owed": list(self._owed), "curricula": curricula}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._num_drawn, self._owed = state["num_drawn"], list(state["owed"])
        for game, curriculum in self._curricula.items():
            curriculum.set_state(state["curricula"][game])
