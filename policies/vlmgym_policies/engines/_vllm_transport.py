"""How named tensors get from this process into vLLM's workers: their names, their check, the way they go.

Nothing here imports vLLM, so that a process without it can say what it would send.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

_SHARED_MEMORY = Path("/dev/shm")
_SPARE_BYTES = 2**26
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
        prepared = {}
        for name, shape in self.shapes.items():
            source = name if name in weights else self.tied.get(name, name)
            if source not in weights:
                raise ValueError(f"weights must be complete, {name} is missing")
            if weights[source].shape != shape:
                raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(weights[source].shape)}")
            prepared[self.loaded_name(name)] = weights[source].detach().to(dtype)
        return prepared

    def loaded_name(self, name: str) -> str:
        """What vLLM calls a tensor: "model.vision_tower.norm.weight" of a LLaVA is its tower's vision model's."""
        own, loaded = _RENAMED.get(self.model_type, ("", ""))
        return loaded + name.removeprefix(own) if own and name.startswith(own) else name


class Transport(Protocol):
    """backend: name under which vLLM's workers know the receiving end."""

    backend: str

    async def push(self, llm: Any, weights: dict[str, torch.Tensor]) -> None:
        """Replaces the weights of a paused `AsyncLLM`; after an error they are undefined until a push succeeds."""
        ...


class SharedMemory:
    """A safetensors file in memory, which workers on this machine map; on disk where /dev/shm is too small."""

    backend = "vlmgym_shared_memory"

    async def push(self, llm: Any, weights: dict[str, torch.Tensor]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        weights = _apart(weights)
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        with tempfile.TemporaryDirectory(dir=_folder(num_bytes), prefix="vlmgym-weights-") as folder:
            path = f"{folder}/weights.safetensors"
            await asyncio.to_thread(save_file, weights, path)
            await llm.start_weight_update()
            await llm.update_weights(
                WeightTransferUpdateRequest(update_info={"path": path, "checksum": checksum(weights)})
            )
            await llm.finish_weight_update()


TRANSPORTS: dict[str, type[Transport]] = {"shared_memory": SharedMemory}


def checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """CRC-32 of all names and bytes, whatever the order of the mapping."""
    total = 0
    for name in sorted(weights):
        words = weights[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        total = zlib.crc32(words.numpy().data, zlib.crc32(name.encode(), total))
    return total


def _apart(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, none of which shares memory with another: a safetensors file holds no such."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in weights.items():
        tensor = tensor.cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart


def _folder(num_bytes: int) -> Path | None:
    """Where a file of that size goes; None is the system's temporary folder."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > num_bytes + _SPARE_BYTES:
        return _SHARED_MEMORY
    return None
