"""Decides which actors update the model, and within what memory."""

from __future__ import annotations

from pydantic import Field

from vlmgym.settings.section import Section


class LearnerSettings(Section):
    """The actors that update the model."""

    count: int = Field(0, ge=0, description="how many; 0 learns in the driver's process")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per learner")
    num_gpus: float = Field(0.0, ge=0, description="GPUs reserved per learner")
    micro_batch_tokens: int = Field(16_384, ge=1, description="most tokens, padding included, in one forward pass")
