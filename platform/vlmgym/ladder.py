"""Decides how the levels of a game are told: each knob with its axis, its rule and its value at every level."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from vlmgym_envs.core import Game
from vlmgym_envs.level import BoardLevel, Level

AXES = ("perception", "reasoning", "other")
"""How a level can be hard: to see, or to think about. "other" holds what a level's docstring says nothing about."""

_SECTION = re.compile(r"\b(Perception|Reasoning):([^.]*)")


class Knob(NamedTuple):
    """One knob of a game's levels. values: one per named level, in the order of the ladder."""

    name: str
    axis: str
    rule: str
    values: tuple[object, ...]

    @property
    def varies(self) -> bool:
        return any(value != self.values[0] for value in self.values)


def knobs(game: Game[Any, Any, Any]) -> list[Knob]:
    """Every knob of the game's levels, by axis, and in the order in which the level declares them."""
    axes = knob_axes(game.level_class)
    found = [
        Knob(
            spec.name,
            axes[spec.name],
            str(spec.metadata["rule"]),
            tuple(getattr(level, spec.name) for level in game.levels.values()),
        )
        for spec in fields(game.level_class)
    ]
    return sorted(found, key=lambda knob: AXES.index(knob.axis))


def knob_axes(level_class: type[Level]) -> dict[str, str]:
    """The axis of each knob, as the docstring of the level says: "Perception: colors, shapes. Reasoning: rows, cols."

    The knobs that come from `BoardLevel` are perception.
    """
    named = {axis.lower(): re.findall(r"\w+", text) for axis, text in _SECTION.findall(level_class.__doc__ or "")}
    board = {spec.name for spec in fields(BoardLevel)} if issubclass(level_class, BoardLevel) else set()

    def axis_of(knob: str) -> str:
        if knob in board:
            return "perception"
        return next((axis for axis in AXES if knob in named.get(axis, ())), "other")

    return {spec.name: axis_of(spec.name) for spec in fields(level_class)}


def picture_size(shape: Sequence[int]) -> str:
    """Width x height of a picture [H, W, 3], as people say it: "728 x 728"."""
    return f"{shape[1]} x {shape[0]}"
