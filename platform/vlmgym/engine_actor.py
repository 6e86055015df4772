"""An engine as a Ray actor: its requests overlap, so that the engine can batch them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray

from vlmgym_policies.checksum import weights_checksum
from vlmgym_policies.engine import Completion, OfferedWeights, Prompt, Sampling, TrainableEngine, make_engine

REQUESTS = "requests"
MAX_REQUESTS = 100_000
"""Generate calls at once. They have a concurrency group of their own, for those that wait for new weights must not keep
the call that brings the weights from being heard."""


class EngineActor:
    """Serves nothing before it has weights; an engine that is lost is replaced, not restarted with old ones."""

    def __init__(self, engine_type: str, options: Mapping[str, Any]) -> None:
        self._engine = cast(TrainableEngine, make_engine(engine_type, wait_for_weights=True, **options))

    @ray.method(concurrency_group=REQUESTS)
    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return await self._engine.generate(prompts, sampling)

    async def load_weights(self, weights: Any, version: int, checksum: int | None = None) -> None:
        """weights: as of `TrainableEngine.load_weights`. checksum: of a mapping, when it was sent.

        Errors: as there; ValueError, and nothing changes, where a mapping has another checksum.
        """
        if checksum is not None and not isinstance(weights, OfferedWeights):
            found = await asyncio.to_thread(weights_checksum, weights)
            if found != checksum:
                raise ValueError(f"weights must have checksum {checksum}, got {found}")
        await self._engine.load_weights(weights, version)

    async def weights_version(self) -> int | None:
        return await self._engine.weights_version()

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)


def start_engine(engine_type: str, engine_options: Mapping[str, Any], actor_options: Mapping[str, Any]) -> Any:
    """The handle of a new engine actor; it may still be starting."""
    actor = ray.remote(concurrency_groups={REQUESTS: MAX_REQUESTS}, **actor_options)(EngineActor)
    return actor.remote(engine_type, engine_options)
