"""What runs inside vLLM's worker processes: takes weights out of a shared-memory file and into the model.

vLLM imports this module in each worker, for its engine names `WorkerExtension`; importing it registers the backend.
"""

from __future__ import annotations

from dataclasses import dataclass

from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from vlmgym_policies.engines._vllm_transport import SharedMemory, checksum


class WorkerExtension:
    """Adds nothing to the worker; naming it is how vLLM is told to import this module."""


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """A file needs no handshake."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """path: safetensors file. checksum: of the tensors written to it."""

    path: str
    checksum: int


class SharedMemoryReceiver(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Loads a file layer by layer into the running model's own storage."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate
    _unfinished = False

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        pass

    def start_weight_update(self) -> None:
        if self._unfinished:  # else what a broken update left in a layer would count as part of this one
            finalize_layerwise_reload(self.model, self.model_config)
        self._unfinished = True
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        weights = load_file(update_info.path)
        if (found := checksum(weights)) != update_info.checksum:
            raise ValueError(f"weights must have checksum {update_info.checksum}, got {found}")
        loaded = self.model.load_weights(weights.items())
        expected = {name for name, _ in self.model.named_parameters()}  # during an update no two are tied
        if missing := sorted(expected - set(loaded)):
            raise ValueError(f"weights lack {len(missing)} of the model's parameters, first {missing[0]}")

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._unfinished = False

    def shutdown(self) -> None:
        pass


WeightTransferEngineFactory.register_engine(SharedMemory.backend, SharedMemoryReceiver)
