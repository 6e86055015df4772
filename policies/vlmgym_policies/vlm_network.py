"""A Hugging Face VLM as a network that scores tokens: which weights are trained, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from vlmgym_policies.lora import Lora, add_adapters, is_adapter, merged
from vlmgym_policies.pictures import seeing_each_once
from vlmgym_policies.processing import load_vlm
from vlmgym_policies.shard_loading import load_sharded_vlm
from vlmgym_policies.token_logprobs import TokenLogprobs, token_logprobs

_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What models of other architectures do to logits after the output layer, by its name in their configuration."""


class VLMNetwork(torch.nn.Module):
    """Scores tokens. What is trained is held in float32, what is frozen in `dtype`; products are made in `dtype`.

    So a small learning rate still moves weights when `dtype` is bfloat16. Products get there by autocast, which also
    keeps norms and sums in float32; a sharded network is gathered in `dtype` instead, and switches `autocast` off.

    Its forward pass begins and ends here, for sharded weights of the output layer are there in between only.
    """

    autocast: bool
    banned: torch.Tensor

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, banned_token_ids: Sequence[int], temperature: float
    ) -> None:
        super().__init__()
        check_output_layer(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
        self.model = model
        self.dtype = dtype
        self.temperature = temperature
        self.autocast = any(parameter.dtype != dtype for parameter in model.parameters())
        banned = torch.zeros(model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        banned[list(banned_token_ids)] = True
        self.register_buffer("banned", banned, persistent=False)

    def forward(self, inputs: Mapping[str, torch.Tensor], num_scored: int) -> TokenLogprobs:
        """inputs: of `TrainingInputs`, or the model's own.

        Returns float32 [B, num_scored] of the last `num_scored` tokens of each row.
        """
        device_type = inputs["input_ids"].device.type
        with torch.autocast(device_type, dtype=self.dtype) if self.autocast else contextlib.nullcontext():
            with seeing_each_once(vision_tower(self.model), inputs) as seen:
                states = self.model.base_model(**seen, use_cache=False).last_hidden_state
            hidden = states[:, -num_scored - 1 : -1].flatten(0, 1).to(self.dtype)
            weight = self.model.get_output_embeddings().weight.to(self.dtype)
            targets = inputs["input_ids"][:, -num_scored:]
            scores = token_logprobs(hidden, weight, targets.flatten(), banned=self.banned, temperature=self.temperature)
        return TokenLogprobs(scores.logprobs.view_as(targets), scores.entropy.view_as(targets))

    @property
    def is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def is_sharded(self) -> bool:
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each tensor of the model under its Hugging Face name, detached, whole, adapters merged into it.

        Where weights are sharded every learner has to go through all of them, for each is gathered from all.
        """
        return merged(self.model, self.state())

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """As `weights`, adapters apart: what training goes on from."""
        for name, tensor in self.model.state_dict().items():
            yield name, whole(tensor.detach())

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes whole tensors as of `state`, or the adapters' alone; every learner keeps its shards.

        Errors: ValueError for names of another model.
        """
        own = self.model.state_dict().keys()
        needed = {name for name in own if is_adapter(name)} or own
        for what, names in (("lacks", needed - state.keys()), ("has unknown", state.keys() - own)):
            if names:
                raise ValueError(f"the state {what} {len(names)} tensors, first {min(names)}")
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model, dict(state), options=options)


def load_network(
    path: str,
    *,
    dtype: torch.dtype,
    banned_token_ids: Sequence[int],
    temperature: float,
    trained: bool = True,
    train_vision: bool = True,
    lora: Lora | None = None,
    seed: int = 0,
    activation_checkpointing: bool = False,
    shard: Callable[[VLMNetwork], None] | None = None,
) -> VLMNetwork:
    """The network of a model directory or hub name; seed: of fresh adapters.

    shard: makes this process's shards of its parameters, which without adapters have no storage then; what is not kept
    is never read.

    Errors: ValueError as of `load_vlm`, and for adapters that fit nowhere.
    """
    networks = []

    def build(model: PreTrainedModel) -> None:
        if not trained:
            model.requires_grad_(False)
        elif not train_vision:
            vision_tower(model).requires_grad_(False)
        if lora is not None:
            add_adapters(model, lora, seed, without=None if train_vision else vision_tower(model))
        if activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        networks.append(VLMNetwork(model, dtype, banned_token_ids, temperature))
        if shard is not None:
            shard(networks[0])

    if shard is not None and lora is None:
        load_sharded_vlm(path, torch.float32 if trained else dtype, build)
    else:
        build(load_vlm(path, torch.float32 if trained and lora is None else dtype))
    return networks[0].train(trained)


def check_output_layer(model: PreTrainedModel) -> None:
    """Raises ValueError where log-probabilities are more than a softmax of states times the output layer's weight."""
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    if not isinstance(layer, torch.nn.Linear) or layer.bias is not None:
        raise ValueError(f"the output layer of {type(model).__name__} must be linear without bias, got {layer}")
    for name in _LOGIT_CHANGES:
        if getattr(config, name, None) not in (None, 1.0):
            raise ValueError(f"{type(model).__name__} changes its logits by {name}, which is not known here")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered on its mesh's device, by all learners together; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    on_mesh: Any = tensor.to(tensor.device_mesh.device_type)
    gathered: torch.Tensor = on_mesh.full_tensor()
    return gathered


def vision_tower(model: PreTrainedModel) -> torch.nn.Module:
    """The part of a VLM that sees.

    Raises:
        ValueError: the architecture keeps it under a name not known here.
    """
    for name in ("visual", "vision_tower", "vision_model"):
        tower = getattr(model.base_model, name, None)
        if isinstance(tower, torch.nn.Module):
            return tower
    raise ValueError(f"{type(model).__name__} has no part named visual, vision_tower or vision_model")
