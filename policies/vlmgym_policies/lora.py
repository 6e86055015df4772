"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft: where they sit, how they merge, their files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
_ADAPTER = "default"
_PEFT_PREFIX = "base_model.model."
"""peft's own wrapper holds the model under this name, and its files say so."""
_WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Lora:
    """W + alpha / rank * B A, of which A [rank, in] and B [out, rank] are trained.

    target_modules: last parts of the names of the layers that get adapters, or "all-linear": all but the output layer.
    dropout: of the adapters' inputs, in training; the sampler has none, so any is a mismatch with it.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ALL_LINEAR


def add_adapters(model: PreTrainedModel, lora: Lora, seed: int, without: torch.nn.Module | None = None) -> None:
    """Gives layers of `model` fresh adapters that change nothing yet, in place, and freezes everything else.

    without: a part that gets none. Errors: ValueError where no layer fits.
    """
    from peft import inject_adapter_in_model

    config = _peft_config(lora, _names_inside(model, without))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for _, layer in _adapted(model):
        if not isinstance(layer.get_base_layer(), torch.nn.Linear):
            raise ValueError(
                f"lora.target_modules must name linear layers, got a {type(layer.get_base_layer()).__name__}"
            )


@contextlib.contextmanager
def adapters_switched_off(model: torch.nn.Module) -> Iterator[None]:
    """The model as it was before training.

    peft's own switch also freezes the adapters' parameters, which sharded ones must not see between forward passes.
    """
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(model: torch.nn.Module, state: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors under the names they have without adapters, W + alpha / rank * B A in float32
    for adapted ones.

    state: whole tensors by their names with adapters; those of one layer stand together, its own before its adapters'.
    """
    layers = dict(_adapted(model))
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state:
        layer, part = _split(name)
        if layer not in layers:
            yield name, tensor
        elif part == "base_layer.bias":
            yield f"{layer}.bias", tensor
        else:
            parts = waiting.setdefault(layer, {})
            parts[part] = tensor
            if len(parts) == 3:
                yield f"{layer}.weight", _merge(waiting.pop(layer), layers[layer].scaling[_ADAPTER])
    assert not waiting, "every adapted layer has a weight, an A and a B"


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name is an adapter's."""
    return _split(name)[1] in ("lora_A", "lora_B")


def save_adapters(
    path: Path, lora: Lora, base_path: str, model: torch.nn.Module, state: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Writes what `PeftModel.from_pretrained(base model, path)` reads. state: as of `merged`."""
    layers = dict(_adapted(model))
    named = {_file_name(name): tensor.cpu().contiguous() for name, tensor in state if is_adapter(name)}
    config = _peft_config(lora, None)
    config.base_model_name_or_path = base_path
    config.target_modules = sorted(layers)
    config.inference_mode = True
    config.save_pretrained(str(path))
    save_file(named, path / _WEIGHTS_FILE, metadata={"format": "pt"})


def load_adapters(path: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of a folder of `save_adapters` by the names of `model`. Errors: ValueError where others are in it."""
    names = {_file_name(name): name for name in model.state_dict() if is_adapter(name)}
    tensors = load_file(path / _WEIGHTS_FILE)
    if tensors.keys() != names.keys():
        wrong = min(tensors.keys() ^ names.keys())
        raise ValueError(f"{path} must hold the adapters of the model, {wrong} is only in one of them")
    return {names[name]: tensor for name, tensor in tensors.items()}


def _peft_config(lora: Lora, exclude: str | None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        exclude_modules=exclude,
    )


def _names_inside(model: torch.nn.Module, part: torch.nn.Module | None) -> str | None:
    """A pattern of the names of all modules inside `part`."""
    if part is None:
        return None
    (name,) = [name for name, module in model.named_modules() if module is part]
    return rf"{re.escape(name)}\..*"


def _adapted(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """The layers that have adapters, by the names that they would have without."""
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _split(name: str) -> tuple[str, str]:
    """ "a.b.lora_A.default.weight" -> ("a.b", "lora_A")."""
    for part in ("base_layer.weight", "base_layer.bias"):
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    for part in ("lora_A", "lora_B"):
        if name.endswith(suffix := f".{part}.{_ADAPTER}.weight"):
            return name.removesuffix(suffix), part
    return name, ""


def _file_name(name: str) -> str:
    return _PEFT_PREFIX + name.replace(f".{_ADAPTER}.", ".")


def _merge(parts: Mapping[str, torch.Tensor], scaling: float) -> torch.Tensor:
    base = parts["base_layer.weight"]
    change = scaling * (parts["lora_B"].float() @ parts["lora_A"].float())
    return base.float() + change
