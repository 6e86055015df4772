"""How learners share a model: each holds a copy (DDP), or a shard of it (FSDP2); and what must be the same on all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmgym_policies.vlm_module import VLMModule
from vlmgym_policies.vlm_network import VLMNetwork

Parallelism = Literal["ddp", "fsdp2"]


def load_shards(module: VLMModule, device: torch.device, *, offload_optimizer: bool, offload_reference: bool) -> None:
    """Has the module read this learner's shard of its networks, to `device`; before an optimizer has its parameters.

    A layer is gathered as one, in the dtype that it computes in, when it is its turn; so is the rest of a network, for
    the whole of its forward pass. Gradients are summed in float32 and stay sharded from one micro-batch to the next.
    offload_optimizer: the policy's shards, their gradients and what the optimizer keeps lie in the CPU's memory, where
    the optimizer steps.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))

    def shard(network: VLMNetwork) -> None:
        trained = network.is_trained
        offload = offload_optimizer if trained else offload_reference
        _shard_network(network, mesh, offload, keep_until_backward=trained)

    module.load(shard)
    for network in module.networks():
        for buffer in network.buffers():
            buffer.data = buffer.to(device)


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


def over_learners(value: float, operation: Any, device: torch.device) -> float:
    """What `operation`, a `dist.ReduceOp`, makes of the values of all learners, which call this together."""
    if not dist.is_initialized():
        return float(value)
    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, operation)
    return float(tensor)
