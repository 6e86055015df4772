"""The connection over which one learner broadcasts weights to the workers of all engines; both ends hold one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import DistStoreError, TCPStore  # type: ignore[attr-defined]


class Connection:
    """NCCL among a learner, rank 0, and all workers, and a store through which they learn of each other.

    timeout_s: bound of each wait for the others. listen_socket: rank 0's, at that address and port.

    Errors: RuntimeError where the others do not come in time, or NCCL cannot be loaded.
    """

    def __init__(
        self,
        address: str,
        port: int,
        rank: int,
        world_size: int,
        timeout_s: float,
        listen_socket: socket.socket | None = None,
    ) -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        store = _store(address, port, rank, world_size, timeout_s, listen_socket)
        group = StatelessProcessGroup(rank, world_size, store)
        with unpinned_nccl_env():
            self.communicator: Any = PyNcclCommunicator(group, device=torch.accelerator.current_device_index())
        if self.communicator.disabled:  # its broadcasts would do nothing, without a word
            raise RuntimeError("transport nccl needs the NCCL library, which could not be loaded")
        self._store = store
        self._rank = rank
        self._peers = range(1, world_size)
        self._timeout_s = timeout_s
        self._num_transfers = 0
        self._closed = False

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Around the same broadcasts on all ranks: entered by all or by none, and aborted after `timeout_s`.

        A broadcast waits for ever for a rank that is gone. So none begins before all have said that they are there, and
        where one is lost later NCCL is told to let go. Errors: RuntimeError in both cases; the connection is of no use
        any more.
        """
        self._meet()
        watch = threading.Timer(self._timeout_s, self.close)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
        if self._closed:
            raise RuntimeError(f"weights were not transferred within {self._timeout_s:g} s")

    def close(self) -> None:
        """Does not wait for what is under way. More than once does no harm."""
        self._closed = True
        self.communicator.destroy()

    def _meet(self) -> None:
        if self._closed:
            raise RuntimeError("the connection is closed")
        self._num_transfers += 1
        ready = {rank: f"ready/{self._num_transfers}/{rank}" for rank in self._peers}
        go = f"go/{self._num_transfers}"
        try:
            if self._rank == 0:
                self._store.wait(list(ready.values()), timedelta(seconds=self._timeout_s))
                self._store.set(go, "")
            else:
                self._store.set(ready[self._rank], "")
                self._store.wait([go], timedelta(seconds=self._timeout_s))
        except DistStoreError as error:
            raise RuntimeError(f"the others were not ready for weights within {self._timeout_s:g} s") from error


def _store(
    address: str, port: int, rank: int, world_size: int, timeout_s: float, listen_socket: socket.socket | None
) -> Any:
    """At rank 0 once all have come."""
    given: dict[str, Any] = {} if listen_socket is None else {"master_listen_fd": listen_socket.detach()}
    try:
        return TCPStore(address, port, world_size, rank == 0, timedelta(seconds=timeout_s), use_libuv=False, **given)
    except DistStoreError as error:
        raise RuntimeError(f"the others did not come for weights within {timeout_s:g} s") from error
