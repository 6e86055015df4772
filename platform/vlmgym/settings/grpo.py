"""Decides the reinforcement learning: its batches, its loss, its optimizer, its rhythm."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmgym.grpo.variants import Advantage, AverageOver, Credit, Divergence, KLPlace, PolicyLoss
from vlmgym.settings.optimizer import Betas
from vlmgym.settings.section import Section


class GRPOSettings(Section):
    """Group-relative policy optimisation."""

    iterations: int = Field(400, ge=0, description="rounds of sampling and one update")
    groups: int = Field(128, ge=1, description="start states per iteration")
    group_size: int = Field(5, ge=2, description="responses per start state")
    lr: float = Field(1e-6, gt=0, description="learning rate of AdamW")
    warmup_iterations: int = Field(0, ge=0, description="iterations over which the learning rate rises from 0")
    advantage: Advantage = Field("grpo", description="how the returns of a group are compared")
    credit: Credit = Field(
        "episode", description="a turn has the advantage of the whole episode, or of what came from it on"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount per turn, for credit turn and step_weight")
    step_weight: float = Field(0.0, ge=0, description="weight of the comparison among decisions taken in one state")
    loss: PolicyLoss = Field("clip", description="the policy's term of the loss")
    average_over: AverageOver = Field(
        "tokens", description="what counts alike in the loss: tokens, responses, or tokens by 1 / max_tokens"
    )
    max_weights_lag: int = Field(0, ge=0, description="updates that sampling may lag behind; 0 samples, then updates")
    stale_groups: Literal["wait", "drop"] = Field("wait", description="what happens to groups before they lag too far")
    importance_cap: float | None = Field(
        None, ge=1, description="cap of truncated importance sampling; none takes the ratio to the sampler"
    )
    max_uninformative_groups: int = Field(0, ge=0, description="groups of equal rewards replaced per iteration")
    clip_low: float = Field(0.2, gt=0, le=1, description="the ratio is clipped below 1 - clip_low; 1 is no bound")
    clip_high: float = Field(0.2, gt=0, description="the ratio is clipped above 1 + clip_high")
    dual_clip: float | None = Field(None, gt=1, description="bound of the ratio where the advantage is negative")
    kl: Divergence = Field("k3", description="how the divergence from the start model is estimated")
    kl_in: KLPlace = Field("loss", description="whether it is a term of the loss, or taken from what tokens earn")
    kl_coeff: float = Field(0.01, ge=0, description="its weight; 0 keeps no copy of the start model")
    entropy_coeff: float = Field(0.0, ge=0, description="weight of the policy's entropy, which is made large")
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    adam_betas: Betas = Field((0.9, 0.999), description="of AdamW")
    eval_every: int = Field(20, ge=1, description="iterations between evaluations")
