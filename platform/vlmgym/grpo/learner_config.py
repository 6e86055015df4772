"""The settings of learners: which model they hold, how they share it, and what they save memory by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided


class LearnerConfig(AlgorithmConfig):
    """The sections of `GRPOConfig` that say where the model lives."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.parallelism = "ddp"
        self.activation_checkpointing = False
        self.offload_optimizer = False
        self.offload_reference = False

    def vlm(
        self,
        path: str,
        *,
        dtype: str = "float32",
        train_vision: bool = True,
        lora: Mapping[str, Any] | None = None,
    ) -> Self:
        """The VLM: a model directory or hub name, start of the policy and frozen reference of the KL term.

        Args:
            dtype: "float32" or "bfloat16", which learners and engines compute in. Trained weights are float32 anyway.
            train_vision: whether the vision tower is trained.
            lora: trains low-rank adapters alone; keys are those of `vlmgym_policies.lora.Lora`. The reference is then
                the policy without them, which costs no memory.
        """
        config = {"path": path, "dtype": dtype, "train_vision": train_vision}
        return self.rl_module(model_config={**config, "lora": None if lora is None else dict(lora)})

    def learners(
        self,
        *,
        parallelism: Literal["ddp", "fsdp2"] = NotProvided,
        activation_checkpointing: bool = NotProvided,
        offload_optimizer: bool = NotProvided,
        offload_reference: bool = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Who updates.

        Args:
            parallelism: "ddp" learners hold the whole model each, "fsdp2" ones a shard of it and of its reference.
            activation_checkpointing: layers compute their insides again in the backward pass, and do not keep them.
            offload_optimizer: fsdp2: the policy's shards and what the optimizer keeps lie in the CPU's memory.
            offload_reference: fsdp2: so do the reference's shards.
            kwargs: RLlib's own (`num_learners`, `num_gpus_per_learner`, ...).
        """
        super().learners(**kwargs)
        return self._set(
            parallelism=parallelism,
            activation_checkpointing=activation_checkpointing,
            offload_optimizer=offload_optimizer,
            offload_reference=offload_reference,
        )

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {
            "seed": self.seed or 0,
            "activation_checkpointing": self.activation_checkpointing,
            "sharded": self.parallelism == "fsdp2",
        }

    def _set(self, **values: Any) -> Self:
        """Takes what was given; RLlib's mark for the rest is `NotProvided`."""
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self


def check_learners(config: Any) -> None:
    """Raises ValueError for learners that cannot be."""
    if config.parallelism not in ("ddp", "fsdp2"):
        raise ValueError(f"parallelism must be 'ddp' or 'fsdp2', got {config.parallelism!r}")
    if config.parallelism == "fsdp2" and config.num_learners < 1:
        raise ValueError(f"parallelism 'fsdp2' needs num_learners of at least 1, got {config.num_learners}")
    for name in ("offload_optimizer", "offload_reference"):
        if getattr(config, name) and config.parallelism != "fsdp2":
            raise ValueError(f"{name} needs parallelism 'fsdp2', got {config.parallelism!r}")
    if config.grad_clip_by != "global_norm":
        raise ValueError(f"grad_clip_by must be 'global_norm', got {config.grad_clip_by!r}")
