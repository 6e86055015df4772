"""Decides which actors update the model, and within what memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmgym.settings.section import Section


class LearnerSettings(Section):
    """The actors that update the model."""

    count: int = Field(0, ge=0, description="how many; 0 learns in the driver's process")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per learner")
    num_gpus: float = Field(0.0, ge=0, description="GPUs reserved per learner")
    parallelism: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="each learner holds the whole model, or (fsdp2) a shard of it and of its reference"
    )
    activation_checkpointing: bool = Field(
        False, description="layers compute their insides again in the backward pass, and do not keep them"
    )
    offload_optimizer: bool = Field(
        False, description="fsdp2: the trained shards and the optimizer's moments lie in the CPU's memory"
    )
    offload_reference: bool = Field(False, description="fsdp2: the reference's shards lie in the CPU's memory")
    micro_batch_tokens: int = Field(16_384, ge=1, description="most tokens, padding included, in one forward pass")
