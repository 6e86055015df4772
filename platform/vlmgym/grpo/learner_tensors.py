"""Which tensors a learner goes on from, and the names under which they are kept: weights, and what optimizers keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vlmgym.grpo.vlm_learner import VLMLearner, vlm

_WEIGHTS, _OPTIMIZER = "weights", "optimizer"


def learner_tensors(learner: VLMLearner) -> dict[str, torch.Tensor]:
    """The learner's own tensors, whole or its shards of them, not copied."""
    tensors = {}
    for module_id, module in learner.module.items():
        policy = vlm(module).policy
        assert policy is not None, "learners hold the whole module"
        for name, tensor in policy.model.state_dict().items():
            tensors[f"{_WEIGHTS}/{module_id}/{name}"] = tensor.detach()
    for prefix, parameter, optimizer in _trained(learner):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{prefix}/{name}"] = value
    return tensors


def make_room(learner: VLMLearner, kept: Mapping[str, TensorStorageMetadata]) -> None:
    """Gives optimizers the tensors that a folder keeps of them, not filled yet, and takes from them all others."""
    entries: dict[str, dict[str, TensorStorageMetadata]] = {}
    for path, entry in kept.items():
        prefix, _, name = path.rpartition("/")
        entries.setdefault(prefix, {})[name] = entry
    for optimizer in learner._named_optimizers.values():
        optimizer.state.clear()
    for prefix, parameter, optimizer in _trained(learner):
        if prefix in entries:
            optimizer.state[parameter] = {name: _room(parameter, entry) for name, entry in entries[prefix].items()}


def weights_in(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights among tensors of `learner_tensors`."""
    return {path: tensor for path, tensor in tensors.items() if path.startswith(f"{_WEIGHTS}/")}


def by_module(weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of `weights_in` under their modules' ids and their own names."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in weights.items():
        _, module_id, name = path.split("/", 2)
        modules.setdefault(module_id, {})[name] = tensor
    return modules


def _trained(learner: VLMLearner) -> Iterator[tuple[str, torch.nn.Parameter, torch.optim.Optimizer]]:
    """Each parameter that an optimizer steps, and what the paths of its tensors begin with."""
    for name, optimizer in learner._named_optimizers.items():
        module = vlm(learner.module[learner._optimizer_name_to_module[name]])
        names = {parameter: of for of, parameter in module.named_parameters()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield f"{_OPTIMIZER}/{name}/{names[parameter]}", parameter, optimizer


def _room(parameter: torch.nn.Parameter, entry: TensorStorageMetadata) -> torch.Tensor:
    """Like the parameter, shards included, where it has the same size; else a number, which optimizers keep on CPUs."""
    dtype = entry.properties.dtype
    if entry.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    return torch.zeros(entry.size, dtype=dtype)
