"""Decides how hard a game is played: one step up or down an axis at a time, by how often groups there succeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmgym.grpo.variants import Success

Knobs = Mapping[str, Any]


class Ladder(NamedTuple):
    """How a curriculum moves. axes: per name its steps, easiest first, each some knobs of the level.

    window: groups that a move is decided on. promote_above, demote_below: the success rate over them beyond which the
    axis goes a step up or down. success: what counts, "progress" for a move that the game rewards, "legal" for one that
    it accepts, both as a share of decisions, or "solved" for a branch that ends with the game won.
    """

    axes: Mapping[str, Sequence[Knobs]]
    window: int
    promote_above: float
    demote_below: float
    success: Success = "progress"


class Probe(NamedTuple):
    """The axis that a group plays at its present step, so that what it does counts for that axis."""

    axis: str
    step: int


class Place(NamedTuple):
    """Where a group plays: knobs over those of the level, and what it probes."""

    knobs: Knobs
    probe: Probe


class Curriculum:
    """Where the axes of one game stand. Each starts at its first step.

    A group probes one axis, in turn: it plays that axis at its present step and the others each at a uniformly drawn
    step up to theirs. So a rate says something about one axis alone, and easier levels stay in the mixture.

    The scheme of automatic domain randomisation (OpenAI et al. 2019, arXiv 1910.07113, section 5), with two departures:
    every group probes, where they probe with probability 1/2; and steps are listed levels, no real numbers.
    """

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._names = list(ladder.axes)
        self._steps = dict.fromkeys(self._names, 0)
        self._windows: dict[str, list[float]] = {name: [] for name in self._names}
        self._num_drawn = 0

    def draw(self, rng: np.random.Generator) -> Place:
        """Where the next group plays."""
        axis = self._names[self._num_drawn % len(self._names)]
        self._num_drawn += 1
        knobs: dict[str, Any] = {}
        for name in self._names:
            reached = self._steps[name]
            step = reached if name == axis else int(rng.integers(reached + 1))
            knobs |= self._ladder.axes[name][step]
        return Place(knobs, Probe(axis, self._steps[axis]))

    def record(self, probe: Probe, success: float) -> None:
        """Counts a group's success rate. One drawn before its axis moved tells nothing about where it stands now."""
        axis, ladder = probe.axis, self._ladder
        if probe.step != self._steps[axis]:
            return
        window = self._windows[axis]
        window.append(success)
        if len(window) < ladder.window:
            return
        rate = sum(window) / len(window)
        move = int(rate > ladder.promote_above) - int(rate < ladder.demote_below)
        step = min(max(probe.step + move, 0), len(ladder.axes[axis]) - 1)
        if step != probe.step:
            self._steps[axis] = step
            window.clear()
        else:
            del window[0]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Per axis its step and, once a group has counted there, the success rate over the window so far."""
        found = {name: {"step": float(step)} for name, step in self._steps.items()}
        for name, window in self._windows.items():
            if window:
                found[name]["success_rate"] = sum(window) / len(window)
        return found

    def get_state(self) -> dict[str, Any]:
        windows = {name: list(window) for name, window in self._windows.items()}
        return {"steps": dict(self._steps), "windows": windows, "num_drawn": self._num_drawn}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._steps = dict(state["steps"])
        self._windows = {name: list(window) for name, window in state["windows"].items()}
        self._num_drawn = state["num_drawn"]


def any_place(ladder: Ladder, rng: np.random.Generator) -> dict[str, Any]:
    """Knobs of a place that the curriculum can reach: a uniformly drawn step of every axis."""
    steps = [steps[int(rng.integers(len(steps)))] for steps in ladder.axes.values()]
    return {knob: value for step in steps for knob, value in step.items()}
