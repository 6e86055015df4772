"""Engines as Ray actors: restarted when lost, serving nothing before they have weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from vlmgym_policies.engine import Completion, Prompt, Sampling, make_engine


def start_engines(config: Any) -> list[Any]:
    """Handles of the engine actors that a `GRPOConfig` asks for."""
    actor = ray.remote(
        num_cpus=config.num_cpus_per_engine, num_gpus=config.num_gpus_per_engine, max_restarts=-1, max_task_retries=0
    )(EngineActor)
    options = {"path": config.model_config["path"], "dtype": config.model_config["dtype"], **config.engine_options}
    return [actor.remote(config.engine_type, options) for _ in range(config.num_engines)]


class EngineActor:
    """An engine in an asyncio actor: its requests overlap, so that the engine can batch them."""

    def __init__(self, engine_type: str, options: Mapping[str, Any]) -> None:
        self._engine = make_engine(engine_type, wait_for_weights=True, **options)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return await self._engine.generate(prompts, sampling)

    async def load_weights(self, weights: Any, version: int) -> None:
        await self._engine.load_weights(weights, version)

    async def weights_version(self) -> int | None:
        return await self._engine.weights_version()
