"""Decides which actors play episodes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vlmgym.settings.section import Section


class EnvRunnerSettings(Section):
    """The actors that play episodes."""

    count: int = Field(4, ge=1, description="how many")
    envs_per_runner: int = Field(32, ge=1, description="groups in flight per runner")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per runner")
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="resources of your own reserved per runner, which some nodes have: `ray start --resources`"
    )
    max_per_node: int | None = Field(
        None, ge=1, description="spreads them: most runners on one node; by default a node is filled before the next"
    )
    step_timeout_s: float = Field(60.0, gt=0, description="a step that takes longer costs its group")
    reset_timeout_s: float = Field(60.0, gt=0, description="a reset that takes longer costs its group")
