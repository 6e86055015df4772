"""Which weights a running model takes, and how they get into it and out of the way."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from vlmgym_policies.processing import load_vlm


class Weights:
    """The weights of a model that belongs on `device`."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

    def read(self, path: str) -> dict[str, torch.Tensor]:
        """The weights of a model directory. Nothing else may run meanwhile: loading changes torch's default dtype.

        Errors: ValueError where they cannot be loaded.
        """
        model: torch.nn.Module = load_vlm(path, self._model.dtype)
        return model.state_dict()

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Errors: ValueError where names or shapes are not those of the model, or a tensor cannot be got at."""
        for what, names in (
            ("lack", self._shapes.keys() - weights.keys()),
            ("have unknown", weights.keys() - self._shapes.keys()),
        ):
            if names:
                raise ValueError(f"the weights {what} {len(names)} tensors, first {min(names)}")
        for name, shape in self._shapes.items():
            try:
                got = weights[name].shape
            except Exception as error:
                raise ValueError(f"weights {name} cannot be read: {error}") from error
            if got != shape:
                raise ValueError(f"weights {name} must have shape {tuple(shape)}, got {tuple(got)}")

    def replace(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Takes weights that were checked; wakes the model.

        Errors: RuntimeError where the model has got only some of them.
        """
        try:
            self._model.to(self._device)
            with torch.no_grad():
                for name, target in self._model.state_dict().items():
                    target.copy_(weights[name])
        except Exception as error:
            raise RuntimeError(f"only some weights came: {error}") from error

    def sleep(self) -> None:
        """Moves the model to the CPU's memory and gives that of its device back."""
        self._model.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
