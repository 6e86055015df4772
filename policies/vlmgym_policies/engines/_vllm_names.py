"""What the tensors of a model are called, by itself and by vLLM, and what a complete set of them is.

Nothing here imports vLLM, so that a process without it can say what it would send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

_RENAMED = {"llava": ("model.vision_tower.", "vision_tower.vision_model.")}
"""Model type -> (prefix in the model's own names, prefix that vLLM loads instead). Most architectures need none."""


class WeightNames(NamedTuple):
    """What a complete set of weights of one architecture is.

    shapes: of every tensor, by the model's own name. tied: name -> the name it shares its tensor with, such as an
    output layer's -> the embedding's.
    """

    model_type: str
    shapes: dict[str, torch.Size]
    tied: dict[str, str]

    @classmethod
    def of(cls, path: str) -> WeightNames:
        """Reads the configuration only; no weights are loaded."""
        config = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        first: dict[int, str] = {}
        tied = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if (owner := first.setdefault(id(parameter), name)) != name:
                tied[name] = owner
        return cls(config.model_type, {name: value.shape for name, value in model.state_dict().items()}, tied)

    def prepare(self, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The tensors to push, under the names that vLLM loads. Tied ones may be left out.

        All are pushed, tied ones too: on a CPU vLLM keeps a packed copy of an output layer's weights, and renews it
        only when the layer is loaded.

        Raises:
            ValueError: a name is unknown or missing, or a shape differs.
        """
        if unknown := sorted(weights.keys() - self.shapes.keys()):
            raise ValueError(f"weights must be those of a {self.model_type} model, got unknown name {unknown[0]}")
        sources = {name: name if name in weights else self.tied.get(name, name) for name in self.shapes}
        if missing := [name for name, source in sources.items() if source not in weights]:
            raise ValueError(f"weights must be complete, {missing[0]} is missing")
        self._check_shapes({name: weights[source].shape for name, source in sources.items()})
        cast = {source: weights[source].detach().to(dtype) for source in set(sources.values())}
        return {self.loaded_name(name): cast[source] for name, source in sources.items()}

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises ValueError where these are not the shapes, by the names that vLLM loads, of what `prepare` gives."""
        own_names = {self.loaded_name(name): name for name in self.shapes}
        if missing := sorted(own_names.keys() - shapes.keys()):
            raise ValueError(f"weights must be complete, {missing[0]} is missing")
        if unknown := sorted(shapes.keys() - own_names.keys()):
            raise ValueError(f"weights must be those of a {self.model_type} model, got unknown name {unknown[0]}")
        self._check_shapes({own_names[name]: shape for name, shape in shapes.items()})

    def loaded_name(self, name: str) -> str:
        """What vLLM calls a tensor: "model.vision_tower.norm.weight" of a LLaVA is its tower's vision model's."""
        own, loaded = _RENAMED.get(self.model_type, ("", ""))
        return loaded + name.removeprefix(own) if own and name.startswith(own) else name

    def _check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        for name, shape in shapes.items():
            if tuple(shape) != tuple(self.shapes[name]):
                raise ValueError(f"{name} must have shape {tuple(self.shapes[name])}, got {tuple(shape)}")
