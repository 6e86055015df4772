"""The learners' end of the transports that go from GPU to GPU: what each offers to engines, and how it is sent.

Nothing here imports vLLM before something is offered, so that a driver without it can merge what learners offer.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch.multiprocessing.reductions import reduce_tensor

from vlmgym_policies.checksum import weights_checksum
from vlmgym_policies.engine import OfferedWeights
from vlmgym_policies.engines._vllm_handle import dtype_name, merge_handles, plain_handle
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_nccl import Connection

_COUNTER = slice(11, 13)
"""Places in a handle of the counter of who has the tensor open."""


class Receivers(NamedTuple):
    """Who is offered weights. members: stays equal while they are the same engines, and nothing went wrong."""

    num_engines: int
    workers_per_engine: int
    members: Hashable


class WeightSender(Protocol):
    """Lives in a learner. A push is `offer` on all learners, `merge`, then `send` while the engines take their offers,
    and `release` once they have. The weights must not change between `offer` and `release`.
    """

    def offer(self, weights: Mapping[str, torch.Tensor], to: Receivers, rank: int) -> list[OfferedWeights]:
        """This learner's part of what each engine is offered; nothing from a learner that sends nothing.

        weights: under the model's own names, on the learner's device. Errors: ValueError for those of another model.
        """
        ...

    def send(self) -> None:
        """Errors: RuntimeError where engines were not there in time; the next `offer` is a new beginning."""
        ...

    def release(self) -> None: ...


def make_sender(transport: str, path: str, dtype: str, timeout_s: float) -> WeightSender:
    """path: model whose weights are sent. dtype: that of the engines. timeout_s: bound of each wait for them.

    Errors: ValueError for a transport that learners do not send by.
    """
    if transport not in _SENDERS:
        raise ValueError(f"transport must be one of {', '.join(sorted(_SENDERS))}, got {transport!r}")
    return _SENDERS[transport](WeightNames.of(path), getattr(torch, dtype), timeout_s)


def merge(parts: Sequence[list[OfferedWeights]]) -> list[OfferedWeights]:
    """The offer for each engine, from the parts of all learners.

    Errors: RuntimeError where learners that should agree have different weights.
    """
    given = [offers for offers in parts if offers]
    if len(checksums := {offer.checksum for offers in given for offer in offers}) > 1:
        raise RuntimeError(f"learners must have the same weights, got checksums {sorted(checksums)}")
    return [_merged(offers) for offers in zip(*given, strict=True)]


class NcclSender:
    """The first learner broadcasts, packed, to the workers of all engines; the others do nothing.

    Worker w of engine i is rank 1 + i * workers_per_engine + w. Where `members` changed, and after an error, the ranks
    connect anew: the offer then says where.
    """

    def __init__(self, names: WeightNames, dtype: torch.dtype, timeout_s: float) -> None:
        self._names = names
        self._dtype = dtype
        self._timeout_s = timeout_s
        self._weights: dict[str, torch.Tensor] = {}
        self._connection: Connection | None = None
        self._connected_to: Receivers | None = None
        self._listening: socket.socket | None = None

    def offer(self, weights: Mapping[str, torch.Tensor], to: Receivers, rank: int) -> list[OfferedWeights]:
        if rank != 0:
            return []
        self._weights = self._names.prepare(weights, self._dtype)
        if self._connection is None or self._connected_to != to:
            self.close()
            self._listen(to)
        update, checksum = _description(self._weights), weights_checksum(self._weights)
        return [OfferedWeights("nccl", self._init(to, engine), update, checksum) for engine in range(to.num_engines)]

    def send(self) -> None:
        if not self._weights:
            return
        device = next(iter(self._weights.values())).device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            try:
                self._broadcast()
            except BaseException:
                self.close()
                raise

    def release(self) -> None:
        self._weights = {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._listening is not None:
            self._listening.close()
        self._connection = self._listening = None

    def _listen(self, to: Receivers) -> None:
        from vllm.utils.network_utils import get_ip

        self._connected_to = to
        address = get_ip()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening = socket.create_server((address, 0), family=family)

    def _init(self, to: Receivers, engine: int) -> dict[str, Any] | None:
        """The handshake for an engine; None where the connection stands."""
        if self._listening is None:
            return None
        address, port = self._listening.getsockname()[:2]
        return {
            "master_address": address,
            "master_port": port,
            "rank_offset": 1 + engine * to.workers_per_engine,
            "world_size": _world_size(to),
            "timeout_s": self._timeout_s,
            **_packing(),
        }

    def _broadcast(self) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        if self._connection is None:
            assert self._listening is not None and self._connected_to is not None
            address, port = self._listening.getsockname()[:2]
            listening, self._listening = self._listening, None
            world_size = _world_size(self._connected_to)
            self._connection = Connection(address, port, 0, world_size, self._timeout_s, listening)
        packing = _packing()
        with self._connection.transfer():
            packed_nccl_broadcast_producer(
                iterator=iter(self._weights.items()),
                group=self._connection.communicator,
                src=0,
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=packing["packed_buffer_size_bytes"],
                num_buffers=packing["packed_num_buffers"],
            )


class IpcSender:
    """Each learner lays out a copy of all weights, which the worker on its GPU opens.

    A copy also where the engines have the learners' dtype: memory that was exported keeps a record of each export for
    as long as it lives, and parameters live for ever.

    PyTorch frees memory that was exported once a counter, 1 at the export, is 0, and keeps it for ever where it went
    below. The receiver counts down when it lets go; that it never opened the tensor, or was killed, nobody here can
    tell. So handles name the counter of a spare tensor, and `release` counts the true ones down.
    """

    def __init__(self, names: WeightNames, dtype: torch.dtype, timeout_s: float) -> None:
        self._names = names
        self._dtype = dtype
        self._exported: list[_Exported] = []
        self._spare: _Exported | None = None

    def offer(self, weights: Mapping[str, torch.Tensor], to: Receivers, rank: int) -> list[OfferedWeights]:
        self.release()
        copies = _copies(self._names.prepare(weights, self._dtype), weights)
        checksum = weights_checksum(copies)
        device = next(iter(copies.values())).device
        self._spare = self._spare or _export(torch.zeros(1, device=device))
        self._exported = [_export(tensor) for tensor in copies.values()]
        handles = [{_gpu_uuid(device): exported.counted_by(self._spare)} for exported in self._exported]
        update = {**_description(copies), "ipc_handles": handles}
        return [OfferedWeights("ipc", None, update, checksum)] * to.num_engines

    def send(self) -> None:
        pass

    def release(self) -> None:
        for exported in self._exported:
            exported.count_down()
        self._exported = []


_SENDERS: dict[str, type[NcclSender] | type[IpcSender]] = {"ipc": IpcSender, "nccl": NcclSender}


class _Exported(NamedTuple):
    """tensor: what keeps the memory alive. handle: what it is opened by."""

    tensor: torch.Tensor
    handle: list[Any]

    def counted_by(self, other: _Exported) -> list[Any]:
        """The handle, with the counter of another."""
        handle = list(self.handle)
        handle[_COUNTER] = other.handle[_COUNTER]
        return handle

    def count_down(self) -> None:
        torch.UntypedStorage._release_ipc_counter_cuda(*self.handle[_COUNTER])


def _merged(offers: Sequence[OfferedWeights]) -> OfferedWeights:
    """Of one engine: the handles of all learners, by their GPU."""
    first = offers[0]
    if "ipc_handles" not in first.update:
        return first
    handles = merge_handles([offer.update["ipc_handles"] for offer in offers])
    return replace(first, update={**first.update, "ipc_handles": handles})


def _world_size(to: Receivers) -> int:
    return 1 + to.num_engines * to.workers_per_engine


def _packing() -> dict[str, Any]:
    """Both ends must cut the stream of tensors alike."""
    from vllm.distributed.weight_transfer.packed_tensor import (
        DEFAULT_PACKED_BUFFER_SIZE_BYTES,
        DEFAULT_PACKED_NUM_BUFFERS,
    )

    return {
        "packed": True,
        "packed_buffer_size_bytes": DEFAULT_PACKED_BUFFER_SIZE_BYTES,
        "packed_num_buffers": DEFAULT_PACKED_NUM_BUFFERS,
    }


def _description(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "names": list(weights),
        "dtype_names": [dtype_name(tensor.dtype) for tensor in weights.values()],
        "shapes": [list(tensor.shape) for tensor in weights.values()],
    }


def _copies(prepared: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors that share no memory with `weights`; where several are one tensor, so are their copies."""
    own = {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    copies = {}
    for name, tensor in prepared.items():
        if tensor.untyped_storage().data_ptr() in own:
            place = (tensor.data_ptr(), tensor.shape)
            made.setdefault(place, tensor.clone(memory_format=torch.contiguous_format))
            tensor = made[place]
        copies[name] = tensor.contiguous()
    return copies


def _gpu_uuid(device: torch.device) -> str:
    """Of the physical GPU, the same in every process whatever it can see."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _export(tensor: torch.Tensor) -> _Exported:
    _, arguments = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return _Exported(tensor, plain_handle(arguments))
