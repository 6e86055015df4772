"""Decides the supervised warm-up."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from vlmgym.settings.game import Teacher
from vlmgym.settings.optimizer import Betas
from vlmgym.settings.section import Section
from vlmgym_policies.baselines import Wording


class ColdStartSettings(Section):
    """Supervised warm-up on demonstrations with exact perception, before GRPO."""

    updates: int = Field(ge=1, description="optimizer steps")
    batch_size: int = Field(32, ge=1, description="demonstrations per update")
    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    warmup_updates: int = Field(0, ge=0, description="updates over which the learning rate rises from 0")
    decay_fraction: float = Field(0.0, ge=0, le=1, description="last part of the updates, in which it falls to 0")
    teacher: Teacher = Field(
        {}, description="who demonstrates a game that does not say otherwise: relative weight per teacher of the game"
    )
    wording: Wording = Field("terse", description="how teachers reason: in few words, or in sentences that vary")
    data: str | None = Field(
        None, min_length=1, description="a data set of `vlmgym data make` to imitate, in place of teachers"
    )
    answer_weight: float = Field(1.0, gt=0, description="loss weight of think and answer tokens; perception has 1")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    adam_betas: Betas = Field((0.9, 0.999), description="of AdamW")
    eval_every: int = Field(200, ge=1, description="updates between evaluations")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_updates + self.decay_fraction * self.updates > self.updates:
            raise ValueError("warmup_updates and the decay must fit into updates")
        if self.data is not None and (self.teacher or "wording" in self.model_fields_set):
            raise ValueError("teacher and wording must be left out where data is imitated")
        return self
