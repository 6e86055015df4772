"""Two processes that are learners together, over gloo and without Ray, for tests of what learners do together."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ray import cloudpickle

DEADLINE_S = 240.0
"""Far more than anything here takes; learners that wait for each other for ever are given up then."""


class LearnerPair:
    """Calls a function in both processes at once; for a pair that hangs or raised, the next call starts another."""

    def __init__(self) -> None:
        self._members: list[tuple[Any, Connection]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, deadline_s: float = DEADLINE_S) -> list[Any]:
        """function(rank, *arguments), by rank. Errors: RuntimeError where one raised, TimeoutError where one hangs."""
        self._start()
        for _, connection in self._members:
            connection.send_bytes(cloudpickle.dumps((function, arguments)))
        results = []
        for _, connection in self._members:
            if not connection.poll(deadline_s):
                self.close()
                raise TimeoutError(f"learners hang for {deadline_s:g} s")
            results.append(connection.recv())
        for ok, result in results:
            if not ok:
                self.close()
                raise RuntimeError(result)
        return [result for _, result in results]

    def _start(self) -> None:
        if self._members:
            return
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, port, theirs), daemon=True)
            process.start()
            self._members.append((process, ours))

    def close(self) -> None:
        for process, _ in self._members:
            process.kill()
            process.join()
        self._members = []


def _serve(rank: int, port: int, connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    while True:
        try:
            function, arguments = cloudpickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            connection.send((True, function(rank, *arguments)))
        except Exception:
            connection.send((False, traceback.format_exc()))
