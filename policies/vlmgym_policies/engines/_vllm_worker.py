"""What runs inside vLLM's worker processes: receives weights, checks them and puts them into the model.

vLLM imports this module in each worker, for its engine names `WorkerExtension`; importing it registers the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCWeightTransferEngine,
    IPCWeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from vlmgym_policies.checksum import WeightsChecksum
from vlmgym_policies.engines._vllm_handle import rebuild_arguments
from vlmgym_policies.engines._vllm_nccl import Connection
from vlmgym_policies.engines._vllm_transport import BACKENDS


class WorkerExtension:
    """Adds nothing to the worker; naming it is how vLLM is told to import this module."""


class Checked:
    """Mixed into one of vLLM's receivers: what it loads has the sum that was sent with it and leaves no parameter out,
    and a broken update can be followed by another.
    """

    model: Any
    model_config: Any
    _is_unfinished = False

    def start_weight_update(self) -> None:
        if self._is_unfinished:  # another worker's part broke, so that this one was never told to finish
            self._end_broken()
        self._is_unfinished = True
        super().start_weight_update()  # type: ignore[misc]

    def receive_weights(self, update_info: Any) -> None:
        received = _Received(self.model.load_weights)
        self.model.load_weights = received
        try:
            super().receive_weights(update_info)  # type: ignore[misc]
            received.check(update_info.checksum, {name for name, _ in self.model.named_parameters()})
        except BaseException:
            self._end_broken()  # at once, for layers may hold on to memory of the sender
            raise
        finally:
            del self.model.load_weights  # the model class has its own

    def finish_weight_update(self) -> None:
        super().finish_weight_update()  # type: ignore[misc]
        self._is_unfinished = False

    def _end_broken(self) -> None:
        """What a broken update left in a layer would count as part of the next."""
        finalize_layerwise_reload(self.model, self.model_config)
        self._is_unfinished = False


class _Received:
    """Stands in for a model's `load_weights` while weights come.

    An error is kept until all have come: others who receive the same broadcast would wait for this worker forever.
    """

    def __init__(self, load: Callable[[Any], Iterable[str]]) -> None:
        self._load = load
        self._checksum = WeightsChecksum()
        self._loaded: set[str] = set()
        self._error: Exception | None = None

    def __call__(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        weights = list(weights)
        for name, tensor in weights:
            self._checksum.add(name, tensor)
        if self._error is None:
            try:
                self._loaded |= set(self._load(weights))
            except Exception as error:
                self._error = error
        return self._loaded

    def check(self, checksum: int, expected: set[str]) -> None:
        """expected: names of the model's parameters; during an update no two of them are tied."""
        if (found := self._checksum.value()) != checksum:
            raise ValueError(f"weights must have checksum {checksum}, got {found}") from self._error
        if self._error is not None:
            raise self._error
        if missing := sorted(expected - self._loaded):
            raise ValueError(f"weights lack {len(missing)} of the model's parameters, first {missing[0]}")


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """A file needs no handshake."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """path: safetensors file. checksum: of the tensors written to it."""

    path: str
    checksum: int


class _File(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads a file layer by layer into the running model's own storage."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        self.model.load_weights(load_file(update_info.path).items())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


class SharedMemoryReceiver(Checked, _File):
    pass


@dataclass(kw_only=True)
class NCCLInit(NCCLWeightTransferInitInfo):
    """timeout_s: bound of each wait for the sender and the other workers."""

    timeout_s: float


@dataclass
class NCCLUpdate(NCCLWeightTransferUpdateInfo):
    """checksum: of all tensors of the broadcast."""

    checksum: int


class NCCLReceiver(Checked, NCCLWeightTransferEngine):
    """Receives a broadcast, in vLLM's packed chunks. A new handshake leaves the old connection."""

    init_info_cls = NCCLInit
    update_info_cls = NCCLUpdate
    _connection: Connection | None = None

    def init_transfer_engine(self, init_info: NCCLInit) -> None:
        self.shutdown()
        self.packed = init_info.packed
        self.packed_buffer_size_bytes = init_info.packed_buffer_size_bytes
        self.packed_num_buffers = init_info.packed_num_buffers
        assert init_info.master_address is not None and init_info.master_port is not None
        rank = init_info.rank_offset + self.parallel_config.rank
        self._connection = Connection(
            init_info.master_address, init_info.master_port, rank, init_info.world_size, init_info.timeout_s
        )
        self.model_update_group = self._connection.communicator

    def receive_weights(self, update_info: NCCLUpdate) -> None:
        if self._connection is None:
            raise RuntimeError("weights were offered without a handshake, and there is no connection")
        with self._connection.transfer():
            super().receive_weights(update_info)

    def shutdown(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self.model_update_group = None


@dataclass(kw_only=True)
class IPCUpdate(IPCWeightTransferUpdateInfo):
    """ipc_handles: per tensor, GPU's id -> `plain_handle`. checksum: of all tensors."""

    ipc_handles: Any = None
    checksum: int

    def __post_init__(self) -> None:
        self.ipc_handles = [
            {gpu: rebuild_arguments(handle) for gpu, handle in by_gpu.items()} for by_gpu in self.ipc_handles
        ]
        super().__post_init__()


class IPCReceiver(Checked, IPCWeightTransferEngine):
    """Reads the trainer's tensors where they lie on the GPU that both share."""

    update_info_cls = IPCUpdate


RECEIVERS = {"ipc": IPCReceiver, "nccl": NCCLReceiver, "shared_memory": SharedMemoryReceiver}
for _transport, _receiver in RECEIVERS.items():
    WeightTransferEngineFactory.register_engine(BACKENDS[_transport], _receiver)
