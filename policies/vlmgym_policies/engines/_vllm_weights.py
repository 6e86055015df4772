"""Which weights vLLM serves: how they come, and what becomes meanwhile of requests, caches and device memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vlmgym_policies.engine import InFlight, NoWeightsError
from vlmgym_policies.engines._vllm_gate import Gate
from vlmgym_policies.engines._vllm_transport import Transport, Weights

_T = TypeVar("_T")


class ServedWeights:
    """The weights of one `AsyncLLM`, in whose event loop all of this runs.

    version: None serves nothing. frees_memory: whether sleep has any to give back.
    """

    def __init__(
        self, llm: Any, transport: Transport, in_flight: InFlight, version: int | None, frees_memory: bool
    ) -> None:
        self.version = version
        self._llm = llm
        self._transport = transport
        self._redoes = in_flight == "redo"
        self._frees_memory = frees_memory
        self._gate = Gate()
        self._changing = asyncio.Lock()
        self._is_paused = self._is_asleep = self._is_freed = False

    async def serve(self, request: Callable[[int], Coroutine[Any, Any, _T]]) -> _T:
        """What `request(version)` gives, from one version from its start to its end.

        Raises: NoWeightsError without weights, and where they were lost before the request could start again.
        """
        self._served_version()
        return await self._gate.through(lambda: request(self._served_version()))

    async def load(self, weights: Weights, version: int) -> None:
        """As `TrainableEngine.load_weights`, in the order of the calls."""
        async with self._changing:
            try:
                accepted = await self._transport.accept(weights)
                try:
                    await self._replace(accepted)
                except BaseException:
                    self.version = None
                    raise
                self.version = version
                self._is_asleep = self._is_freed = False
            finally:
                self._open_gate()

    async def sleep(self) -> None:
        async with self._changing:
            self._is_asleep = True
            await self._gate.close(send_back=self._redoes)
            if self._frees_memory and not self._is_freed:
                self._is_freed = True  # after an error too: what is asleep then is not known
                try:
                    await self._llm.sleep(level=2)
                except BaseException:
                    self.version = None
                    self._open_gate()
                    raise

    async def pause(self) -> None:
        self._is_paused = True
        await self._gate.close()

    async def resume(self) -> None:
        self._is_paused = False
        if not self._changing.locked():
            self._open_gate()

    async def _replace(self, accepted: Any) -> None:
        await self._transport.connect(self._llm, accepted)
        await self._gate.close(send_back=self._redoes)
        if self._is_freed:
            await self._llm.wake_up(tags=["weights"])  # its caches were cleared when it fell asleep
        else:
            await self._llm.pause_generation(mode="abort" if self._redoes else "wait", clear_cache=True)
        await self._transport.push(self._llm, accepted)
        if self._is_freed:
            await self._llm.wake_up(tags=["kv_cache"])
        await self._llm.resume_generation()

    def _open_gate(self) -> None:
        """Unless requests have to wait. Without weights they need not, for they fail."""
        if not self._is_paused and (not self._is_asleep or self.version is None):
            self._gate.open()

    def _served_version(self) -> int:
        if self.version is None:
            raise NoWeightsError
        return self.version
