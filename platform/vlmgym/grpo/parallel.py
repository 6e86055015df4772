"""How learners share a model: each holds a copy (DDP), or a shard of it (FSDP2); and what must be the same on all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmgym_policies.vlm_module import VLMModule
from vlmgym_policies.vlm_network import VLMNetwork, whole

Parallelism = Literal["ddp", "fsdp2"]


def shard(module: VLMModule, device: torch.device, *, offload_optimizer: bool, offload_reference: bool) -> None:
    """Leaves this learner its shard of the module's networks, on `device`; before an optimizer has its parameters.

    A layer is gathered as one, in the dtype that it computes in, when it is its turn; so is the rest of a network, for
    the whole of its forward pass. Gradients are summed in float32 and stay sharded from one micro-batch to the next.
    offload_optimizer: the policy's shards, their gradients and what the optimizer keeps lie in the CPU's memory, where
    the optimizer steps.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    assert module.policy is not None, "learners hold the whole module"
    _shard_network(module.policy, mesh, offload_optimizer, keep_until_backward=True)
    if module.reference is not None:
        _shard_network(module.reference, mesh, offload_reference, keep_until_backward=False)


def _shard_network(network: VLMNetwork, mesh: Any, offload: bool, *, keep_until_backward: bool) -> None:
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=network.dtype, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy(),
    }
    for layer in network.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            fully_shard(layer, **options)
    fully_shard(network, **options, reshard_after_forward=not keep_until_backward)
    network.autocast = False


def clip_gradients(gradients: Iterable[torch.Tensor], max_norm: float | None, device: torch.device) -> float:
    """Scales gradients, in place, to a norm of at most `max_norm` over all learners' shards; returns their norm.

    The norm is the same number on every learner, so that all do alike with a gradient that is not finite, which is
    left as it is.
    """
    gradients = list(gradients)
    parts = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    squares = torch.stack([torch.linalg.vector_norm(part.float()).square().to(device) for part in parts]).sum()
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        dist.all_reduce(squares)
    norm = float(squares.sqrt())
    if max_norm is not None and max_norm < norm < float("inf"):
        for part in parts:
            part.mul_(max_norm / norm)
    return norm


def whole_tree(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any] | None:
    """A tree of tensors with the sharded ones gathered on the CPU, by all learners, for those with `keep`."""

    def gather(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        tensor = whole(leaf)
        return tensor.to("cpu", copy=True) if keep else None

    gathered: dict[str, Any] = tree_map(gather, dict(state))
    return gathered if keep else None


def shard_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """What this learner keeps of a whole tensor that belongs to a parameter, where the parameter is."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    mine = distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return mine.to(parameter.device)
