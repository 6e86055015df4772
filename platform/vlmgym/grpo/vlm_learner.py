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

from vlmgym.grpo.parallel import clip_gradients, shard, shard_like, whole_tree
from vlmgym_policies.vlm_module import VLMModule


class VLMLearner(TorchLearner):
    """What the learners of all stages have in common. Without `num_learners` it lives in the driver's process."""

    _gradient_norm: float
    _gathered_optimizers: dict[str, Any] | None = None

    def build(self) -> None:
        """A learner in the driver's process keeps to its CPUs, as Ray makes learner actors do."""
        if self.config.num_learners == 0 and isinstance(self.config.num_cpus_per_learner, int | float):
            torch.set_num_threads(max(1, int(self.config.num_cpus_per_learner)))
        super().build()

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
        self._gradient_norm = clip_gradients(module_gradients_dict.values(), config.grad_clip, self._device)
        self.metrics.log_value((module_id, "gradient_norm"), self._gradient_norm, window=1)
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, torch.Tensor]) -> None:
        """Steps the optimizers; all learners alike skip a step with a non-finite gradient, which is counted once."""
        finite = math.isfinite(self._gradient_norm)
        if not dist.is_initialized() or dist.get_rank() == 0:
            self.metrics.log_value("num_skipped_updates", int(not finite), reduce="lifetime_sum")
        if finite:
            super().apply_gradients(gradients_dict)

    def gather(self) -> None:
        """Collects sharded state, by all learners together, for the first of them to save; see `VLMModule.gather`.

        `release` lets it go.
        """
        if self.config.parallelism != "fsdp2":
            return
        keep = torch.distributed.get_rank() == 0
        for _, module in self.module.items():
            vlm(module).gather(keep=keep)
        states = {name: optimizer.state_dict() for name, optimizer in self._named_optimizers.items()}
        self._gathered_optimizers = whole_tree(states, keep=keep)

    def release(self) -> None:
        for _, module in self.module.items():
            vlm(module).release()
        self._gathered_optimizers = None

    def _get_optimizer_state(self) -> dict[str, Any]:
        """Copies of whole tensors on the CPU. RLlib's share memory with a learner on the CPU, and hold no bfloat16.

        Errors: RuntimeError where they are sharded and were not gathered.
        """
        states: Mapping[str, Any] | None = self._gathered_optimizers
        if self.config.parallelism != "fsdp2":
            states = {name: _copied(optimizer.state_dict()) for name, optimizer in self._named_optimizers.items()}
        if states is None:
            raise RuntimeError("a sharded optimizer must be gathered, by all learners together, before one saves it")
        return {
            name: {"module_id": self._optimizer_name_to_module[name], "state": state} for name, state in states.items()
        }

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        """Takes whole tensors, as they are saved by learners that shard and others alike."""
        for name, saved in state.items():
            optimizer = self._named_optimizers[name]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            values = {
                index: {key: shard_like(torch.as_tensor(value), parameters[index]) for key, value in entry.items()}
                for index, entry in saved["state"]["state"].items()
            }
            optimizer.load_state_dict({**saved["state"], "state": values})

    def _map_module_to_device(self, module: Any) -> None:
        """Where RLlib would move the whole module to the device, sharded ones move piece by piece."""
        if self.config.parallelism != "fsdp2":
            super()._map_module_to_device(module)
            return
        for _, each in module.items():
            shard(
                vlm(each),
                self._device,
                offload_optimizer=self.config.offload_optimizer,
                offload_reference=self.config.offload_reference,
            )

    def _make_modules_ddp_if_necessary(self) -> None:
        if self.config.parallelism == "ddp":
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
