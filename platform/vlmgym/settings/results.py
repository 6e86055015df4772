"""Decides how results are measured and where they go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmgym.settings.section import Section


class EvaluationSettings(Section):
    """How policies are measured on held-out states."""

    num_states: int = Field(512, ge=1, description="held-out states of an evaluation")


class TrackingSettings(Section):
    """Where results go besides the run directory."""

    wandb: Literal["auto", "online", "offline", "off"] = Field(
        "auto", description="auto is online where WANDB_API_KEY is set, else offline"
    )
    project: str = Field("vlmgym", min_length=1, description="wandb project")
    rollouts_every: int = Field(10, ge=1, description="iterations between saved rollouts")
    num_rollouts: int = Field(4, ge=0, description="rollouts saved each time")
