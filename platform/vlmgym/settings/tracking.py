"""Decides where results go besides the run directory, and when a run raises an alert."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmgym.settings.section import Section


class AlertSettings(Section):
    """When GRPO is taken to collapse: one line on the console, and an alert in wandb."""

    kl_above: float | None = Field(1.0, gt=0, description="nats per token away from the start model; none never alerts")
    entropy_below: float | None = Field(0.005, gt=0, description="nats per token, once it has been above")
    format_rate_below: float | None = Field(
        0.5, gt=0, le=1, description="share of responses with all tags, once it has been above"
    )
    logprob_mismatch_above: float | None = Field(
        0.1, gt=0, description="mean difference of sampler and learner, nats per token"
    )
    steps: int = Field(3, ge=1, description="iterations in a row before an alert")


class TrackingSettings(Section):
    """Where results go besides the run directory."""

    wandb: Literal["auto", "online", "offline", "off"] = Field(
        "auto", description="auto is online where WANDB_API_KEY is set, else offline"
    )
    project: str = Field("vlmgym", min_length=1, description="wandb project")
    checkpoints: Literal["off", "reference", "upload"] = Field(
        "reference", description="what wandb's artifacts hold of a checkpoint: nothing, its path, or its model"
    )
    tensorboard: bool = Field(False, description="write event files to tensorboard/ in the run directory")
    prometheus: bool = Field(True, description="export the metrics through Ray's Prometheus endpoint")
    rollouts_every: int = Field(10, ge=1, description="iterations between saved groups and replays")
    num_rollouts: int = Field(4, ge=0, description="groups saved each time")
    num_replays: int = Field(1, ge=0, description="films of branches with several decisions, each time")
    alerts: AlertSettings = AlertSettings()
