"""Held-out evaluation through Ray Serve: the checkpoint to be measured is swapped in, then asked over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from vlmgym.job import Job
from vlmgym.serving.deploying import Scale, deploy, end, serve_config
from vlmgym.serving.settings import ServeSettings
from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.engines.openai import OpenAIEngine

HOST = "127.0.0.1"


class EvaluationService:
    """A policy on Serve, for the evaluations of a job. Starts with the first checkpoint, ends with its context.

    A replica reserves what an engine of the job does.
    """

    def __init__(self, job: Job) -> None:
        engine, sampling = job.engine, job.sampling
        self._settings = ServeSettings(
            model=job.name,
            engine=engine.type,
            max_batch_size=engine.max_batch_size,
            max_model_len=engine.max_model_len,
            max_tokens=sampling.max_tokens,
            tensor_parallel=engine.tensor_parallel,
            gpu_memory_utilization=engine.gpu_memory_utilization,
        )
        num = job.evaluation.serve_replicas
        self._scale = Scale(num, num, job.evaluation.num_states, engine.num_cpus, engine.num_gpus)
        self._timeout_s = engine.timeout_s
        self._port: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        if self._port is not None:
            end()

    def endpoint(self, model_dir: Path) -> Endpoint:
        """Whoever answers with this checkpoint from now on.

        Errors: BadInput where Serve hosts something else on this cluster, or the checkpoint cannot be served.
        """
        port = self._port or _free_port()
        deploy(serve_config(self._settings, str(model_dir), self._scale, host=HOST, port=port))
        self._port = port
        return Endpoint(self._settings.model, f"http://{HOST}:{port}/v1", self._num_at_once, self._timeout_s)

    @property
    def _num_at_once(self) -> int:
        return self._scale.min_replicas * self._settings.max_batch_size


class Endpoint:
    """The served policy, for callers that run each call in an event loop of its own, to which connections belong."""

    def __init__(self, model: str, url: str, concurrency: int, timeout_s: float) -> None:
        self._engine = OpenAIEngine(model, url=url, concurrency=concurrency, timeout_s=timeout_s)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        try:
            return await self._engine.generate(prompts, sampling)
        finally:
            await self._engine.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
