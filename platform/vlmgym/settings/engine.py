"""Decides which engines sample responses, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmgym.settings.section import Section
from vlmgym_policies.engine import InFlight

Placement = Literal["disaggregated", "colocated"]


class SamplingSettings(Section):
    """How responses are drawn in training."""

    temperature: float = Field(1.0, gt=0, description="of the softmax that tokens are drawn from")
    max_tokens: int = Field(8192, ge=1, description="longest response, in tokens")


class EngineSettings(Section):
    """The inference engines that sample responses, each an actor."""

    type: Literal["hf", "vllm"] = Field("hf", description="which engine")
    replicas: int = Field(1, ge=1, description="how many engines")
    placement: Placement = Field(
        "disaggregated", description="on resources of their own, or colocated: on the learners' GPUs, in turn with them"
    )
    tensor_parallel: int = Field(1, ge=1, description="vllm: workers that share one engine's model, a GPU each")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per engine")
    num_gpus: float = Field(0.0, ge=0, description="GPUs reserved per engine; colocated engines reserve none")
    max_batch_size: int = Field(256, ge=1, description="most responses generated at once per engine")
    max_model_len: int | None = Field(
        None, ge=2, description="most tokens of a prompt and its response; by default what the model has positions for"
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="vllm: share of each GPU's memory for weights and KV cache"
    )
    in_flight: InFlight = Field(
        "finish", description="what becomes of responses under way when weights come: finish, or redo with the new"
    )
    timeout_s: float = Field(600.0, gt=0, description="a response that takes longer costs its group")
    restart_timeout_s: float = Field(1800.0, gt=0, description="how long a run waits for an engine when none is left")
