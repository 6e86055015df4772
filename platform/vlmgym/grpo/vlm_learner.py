"""A learner that holds a `VLMModule`, whole or its shard of it: its optimizer, its gradients, its state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch.utils._pytree import tree_map

from vlmgym.grpo.parallel import clip_gradients, load_shards
from vlmgym_policies.vlm_module import VLMModule


class VLMLearner(TorchLearner):
    """What the learners of all stages have in common. Without `num_learners` it lives in the driver's process."""

    _is_finite: bool
    """Whether loss and gradient of the update are; the same on all learners."""

    def build(self) -> None:
        """A learner in the driver's process keeps to its CPUs, as Ray makes learner actors do."""
        if self.config.num_learners == 0 and isinstance(self.config.num_cpus_per_learner, int | float):
            torch.set_num_threads(max(1, int(self.config.num_cpus_per_learner)))
        super().build()

    @property
    def is_sharded(self) -> bool:
        """Whether it holds a shard of the model; else the whole."""
        return bool(self.config.parallelism == "fsdp2")

    @property
    def is_first(self) -> bool:
        """Of the learners of a group, one of which does what is to be done once."""
        return not dist.is_initialized() or dist.get_rank() == 0

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over what is trainable; the frozen reference (and vision tower) stay out. No decay on vectors."""
        config = config or self.config.get_config_for_module(module_id)
        params = [p for p in self.module[module_id].parameters() if p.requires_grad]
        matrices = {"params": [p for p in params if p.ndim > 1], "weight_decay": config.weight_decay}
        vectors = {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([matrices, vectors], betas=config.adam_betas)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr)

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: Mapping[Any, torch.Tensor]
    ) -> Mapping[Any, torch.Tensor]:
        """Clips by the norm over all shards; RLlib's own would take each learner's."""
        config = config or self.config.get_config_for_module(module_id)
        norm = clip_gradients(module_gradients_dict.values(), config.grad_clip, self._device)
        self.metrics.log_value((module_id, "gradient_norm"), norm, window=1)
        self._is_finite = self._is_finite and math.isfinite(norm)
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, torch.Tensor]) -> None:
        """Steps the optimizers; all learners alike skip a step that is not finite, which is counted once."""
        if self.is_first:
            self.metrics.log_value("num_skipped_updates", int(not self._is_finite), reduce="lifetime_sum")
        if self._is_finite:
            super().apply_gradients(gradients_dict)

    def _get_optimizer_state(self) -> dict[str, Any]:
        """Copies on the CPU. RLlib's share memory with a learner on the CPU, and hold no bfloat16.

        Errors: RuntimeError where they are sharded.
        """
        self._refuse_if_sharded()
        return {
            name: {"module_id": self._optimizer_name_to_module[name], "state": _copied(optimizer.state_dict())}
            for name, optimizer in self._named_optimizers.items()
        }

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        self._refuse_if_sharded()
        for name, saved in state.items():
            self._named_optimizers[name].load_state_dict(saved["state"])

    def _refuse_if_sharded(self) -> None:
        if self.is_sharded:
            raise RuntimeError("no learner has the whole of a sharded state: all of them save and restore it together")

    def _map_module_to_device(self, module: Any) -> None:
        """Where RLlib would move the whole module to the device, those that shard read their shard to it."""
        if not self.is_sharded:
            super()._map_module_to_device(module)
            return
        for _, each in module.items():
            load_shards(
                vlm(each),
                self._device,
                offload_optimizer=self.config.offload_optimizer,
                offload_reference=self.config.offload_reference,
            )

    def _make_modules_ddp_if_necessary(self) -> None:
        if not self.is_sharded:
            super()._make_modules_ddp_if_necessary()


def vlm(module: Any) -> VLMModule:
    """The module itself, where DDP is wrapped around it."""
    unwrapped: VLMModule = module.unwrapped()
    return unwrapped


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = tree_map(
        lambda leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, torch.Tensor) else copy.copy(leaf), state
    )
    return copied
