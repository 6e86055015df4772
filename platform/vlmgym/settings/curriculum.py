"""Decides the knobs of a curriculum."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from vlmgym.grpo.curriculum import Ladder
from vlmgym.grpo.variants import Success
from vlmgym.settings.section import Section

Steps = Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)]


class CurriculumSettings(Section):
    """How hard a game is played in GRPO: axes that move by measured success."""

    axes: dict[str, Steps] = Field(
        min_length=1, description="per axis, under a name of your own, its steps: knobs of the level, easiest first"
    )
    window: int = Field(64, ge=1, description="groups on an axis's present step that a move is decided on")
    promote_above: float = Field(0.8, gt=0, le=1, description="a success rate above this moves an axis one step up")
    demote_below: float = Field(0.3, ge=0, lt=1, description="a success rate below this moves an axis one step down")
    success: Success = Field(
        "progress", description="share of decisions that the game rewards or (legal) accepts, or of branches solved"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.demote_below >= self.promote_above:
            raise ValueError(f"demote_below must be below promote_above, got {self.demote_below}")
        owner: dict[str, str] = {}
        for axis, steps in self.axes.items():
            for knob in {knob for step in steps for knob in step}:
                if owner.setdefault(knob, axis) != axis:
                    raise ValueError(f"axes must not share knobs, got {knob!r} in {owner[knob]} and {axis}")
            if len({frozenset(step) for step in steps}) > 1:
                raise ValueError(f"all steps of an axis must set the same knobs, got others in {axis}")
        return self

    def combinations(self) -> list[dict[str, Any]]:
        """Every set of knobs that the curriculum can reach."""
        chosen = product(*self.axes.values())
        return [{knob: value for step in steps for knob, value in step.items()} for steps in chosen]

    def make(self) -> Ladder:
        return Ladder(self.axes, self.window, self.promote_above, self.demote_below, self.success)
