"""How weights get from whoever has them into vLLM's workers, seen from the engine.

Nothing here imports vLLM before it is used.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from vlmgym_policies.checksum import weights_checksum
from vlmgym_policies.engine import OfferedWeights
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.processing import load_vlm

_SHARED_MEMORY = Path("/dev/shm")
_SPARE_BYTES = 2**26
BACKENDS = {
    "ipc": "vlmgym_ipc",
    "nccl": "vlmgym_nccl",
    "shared_memory": "vlmgym_shared_memory",
}
"""Transport -> the name under which vLLM's workers know the receiving end (`_vllm_worker`)."""

Weights = Mapping[str, torch.Tensor] | str | OfferedWeights


class Transport(Protocol):
    async def accept(self, weights: Weights) -> Any:
        """What `push` takes. Raises ValueError for weights that are not the model's or do not come this way."""
        ...

    async def connect(self, llm: Any, accepted: Any) -> None:
        """Meets the sender where that is new; requests may be under way."""
        ...

    async def push(self, llm: Any, accepted: Any) -> None:
        """Replaces the weights of a paused `AsyncLLM`; after an error they are undefined until a push succeeds."""
        ...


def make_transport(transport: str, names: WeightNames, dtype: torch.dtype) -> Transport:
    """Errors: ValueError for an unknown one."""
    if transport not in BACKENDS:
        raise ValueError(f"transport must be one of {', '.join(BACKENDS)}, got {transport!r}")
    return SharedMemory(names, dtype) if transport == "shared_memory" else FromTrainer(transport, names)


class SharedMemory:
    """A safetensors file in memory, which workers on this machine map; on disk where /dev/shm is too small."""

    def __init__(self, names: WeightNames, dtype: torch.dtype) -> None:
        self._names = names
        self._dtype = dtype

    async def accept(self, weights: Weights) -> dict[str, torch.Tensor]:
        if isinstance(weights, OfferedWeights):
            raise ValueError(
                "an engine with transport shared_memory takes tensors or a model directory, "
                f"got weights that are offered by {weights.transport}"
            )
        return await asyncio.to_thread(self._prepare, weights)

    async def connect(self, llm: Any, accepted: dict[str, torch.Tensor]) -> None:
        """A file needs none."""

    async def push(self, llm: Any, accepted: dict[str, torch.Tensor]) -> None:
        weights = _apart(accepted)
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        with tempfile.TemporaryDirectory(dir=_folder(num_bytes), prefix="vlmgym-weights-") as folder:
            path = f"{folder}/weights.safetensors"
            await asyncio.to_thread(save_file, weights, path)
            await _update(llm, {"path": path, "checksum": await asyncio.to_thread(weights_checksum, weights)})

    def _prepare(self, weights: Mapping[str, torch.Tensor] | str) -> dict[str, torch.Tensor]:
        if isinstance(weights, str):
            model: torch.nn.Module = load_vlm(weights, self._dtype)
            weights = model.state_dict()
        return self._names.prepare(weights, self._dtype)


class FromTrainer:
    """A trainer sends from its GPU while the workers load (`_vllm_sender`); "nccl" to others, "ipc" on the same one."""

    def __init__(self, transport: str, names: WeightNames) -> None:
        self._transport = transport
        self._names = names

    async def accept(self, weights: Weights) -> OfferedWeights:
        if not isinstance(weights, OfferedWeights) or weights.transport != self._transport:
            raise ValueError(
                f"an engine with transport {self._transport} takes weights that a trainer offers by {self._transport}, "
                f"got {_described(weights)}"
            )
        self._names.check(dict(zip(weights.update["names"], weights.update["shapes"], strict=True)))
        return weights

    async def connect(self, llm: Any, accepted: OfferedWeights) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        if accepted.init is not None:
            await llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=dict(accepted.init)))

    async def push(self, llm: Any, accepted: OfferedWeights) -> None:
        await _update(llm, {**accepted.update, "checksum": accepted.checksum})


async def _update(llm: Any, update: dict[str, Any]) -> None:
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

    await llm.start_weight_update()
    await llm.update_weights(WeightTransferUpdateRequest(update_info=update))
    await llm.finish_weight_update()


def _described(weights: Weights) -> str:
    if isinstance(weights, OfferedWeights):
        return f"ones that are offered by {weights.transport}"
    return "a model directory" if isinstance(weights, str) else "tensors"


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
