"""Decides what a level is: typed knobs, each declared once together with the rule it must keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from vlmgym_envs.names import unknown_name


class Range(NamedTuple):
    """The rule of a whole-number knob: low <= value <= high."""

    low: int
    high: int

    def allows(self, value: object) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


class Options(NamedTuple):
    """The rule of a knob that takes one of a few values; 1 is not True."""

    values: tuple[object, ...]

    def allows(self, value: object) -> bool:
        return any(type(value) is type(option) and value == option for option in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


class NameOrDirectory(NamedTuple):
    """The rule of a knob that takes a built-in name or else the path of a directory."""

    name: str

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and bool(value.strip())

    def __str__(self) -> str:
        return f"{self.name!r} or a directory"


def knob(default: int, low: int, high: int) -> Any:
    """A whole-number field in low..high, both included."""
    return field(default=default, metadata={"rule": Range(low, high)})


def choice(default: object, options: tuple[object, ...]) -> Any:
    """A field that takes one of the `options`."""
    return field(default=default, metadata={"rule": Options(options)})


def directory(name: str) -> Any:
    """A field that takes the path of a directory; by default the built-in `name`."""
    return field(default=name, metadata={"rule": NameOrDirectory(name)})


@dataclass(frozen=True, slots=True)
class Level:
    """How hard a game is. Subclasses are frozen dataclasses whose fields are made by `knob`, `choice` and `directory`.

    Every value is checked against its rule: ValueError("rows must be in 2..16, got 40").
    """

    def __post_init__(self) -> None:
        for spec in fields(self):
            rule, value = spec.metadata["rule"], getattr(self, spec.name)
            if not rule.allows(value):
                where = "in " if isinstance(rule, Range) else ""
                raise ValueError(f"{spec.name} must be {where}{rule}, got {value!r}")
        self.check()

    def check(self) -> None:
        """Raises ValueError where the knobs contradict each other. The knobs themselves are valid by then."""

    def override(self, knobs: Mapping[str, object]) -> Self:
        """This level with some knobs changed; ValueError for a knob it does not have."""
        known = [spec.name for spec in fields(self)]
        for name in knobs:
            if name not in known:
                raise unknown_name("level knob", name, known)
        return replace(self, **knobs)


@dataclass(frozen=True, slots=True)
class BoardLevel(Level):
    """A level of a game whose picture is a board of square tiles: how hard that picture is to read.

    tile_px: side of a cell. border_px: white border around the board. jitter: how far, at most, a tile's drawing is
    shifted in its cell along each axis, in percent of tile_px. noise: standard deviation of the noise on each pixel and
    channel, of 255. distractors: marks without a meaning, scattered over the picture.
    """

    tile_px: int = knob(112, 8, 128)
    border_px: int = knob(28, 0, 128)
    jitter: int = knob(0, 0, 25)
    noise: int = knob(0, 0, 128)
    distractors: int = knob(0, 0, 100)
