"""Decides how the platform's rollouts are measured: as they are, and with a barrier after every turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import ray

from vlmgym.benchmarks.rollouts_asking import Load, Window, closed_loop
from vlmgym.benchmarks.rollouts_workload import Answer, Branch, with_drawn_length
from vlmgym.grpo.collector import GroupCollector
from vlmgym.grpo.runner import VLMEnvRunner
from vlmgym.grpo.tasks import Task
from vlmgym_policies.engine import Completion, Prompt, Sampling

DRAIN_POLL_S = 0.2


class RolloutRunner(VLMEnvRunner):
    """Draws the length of each response by its seed, and notes when it came; in lock-step where it is told so."""

    def __init__(self, **kwargs: Any) -> None:
        self._answers: list[Answer] = []
        self._barrier: asyncio.Barrier | None = None
        self._num_waves = 0
        self._num_asked = self._num_finished = 0
        super().__init__(**kwargs)

    def set_engines(self, engines: Sequence[Any]) -> None:
        super().set_engines([SimpleNamespace(generate=_Generate(self, engine)) for engine in engines])

    def play(self, tasks: Mapping[int, Task]) -> None:
        self._num_asked += len(tasks)
        super().play(tasks)

    def finished(self, timeout_s: float) -> Any:
        sample = super().finished(timeout_s)
        self._num_finished += len(sample.groups)
        return sample

    def start_measurement(self, deal: int, lock_step: int) -> None:
        """Boards of `deal` from now on. lock_step: how many branches wait for each other in every turn; 0 for none."""
        self.drain()
        self._answers, self._num_waves = [], 0
        self._barrier = asyncio.Barrier(lock_step) if lock_step else None
        for environment in self._environments:
            environment.env.deal = deal

    def drain(self) -> None:
        """Waits for groups that were asked for; what they are is of no interest."""
        while self._num_finished < self._num_asked:
            self.finished(DRAIN_POLL_S)

    def measured(self) -> Measured:
        return Measured(self._answers, self._num_waves)

    async def ask(self, engine: Any, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """One request, as `GroupPlayer` makes it; in lock-step it is sent and answered with all others of its turn."""
        await self._wait_for_all()
        asked_s = time.monotonic()
        completions: list[Completion] = await engine.generate.remote(prompts, with_drawn_length(sampling))
        self._answers.append(Answer(asked_s, time.monotonic(), sampling.seed, len(completions[0].token_ids)))
        if await self._wait_for_all():
            self._num_waves += 1
        return completions

    async def _wait_for_all(self) -> bool:
        """In lock-step, until all have come; True for one of them."""
        return self._barrier is not None and await self._barrier.wait() == 0


class Measured(NamedTuple):
    """What a runner noted. num_waves: turns that all branches ended together."""

    answers: list[Answer]
    num_waves: int


class PlatformRollouts:
    """A GRPO algorithm's engine actor, env runner and collector; nothing is learned.

    config: as many environments as groups are in flight, one engine, `env_runner_cls` RolloutRunner.
    """

    def __init__(self, config: Any) -> None:
        self._algorithm = config.build_algo()
        self._runners = self._algorithm.env_runner_group
        self._num_groups = config.num_envs_per_env_runner
        self._group_size = config.env_config["group_size"]

    def ask_actor(self, branches: Sequence[Branch], load: Load) -> Window:
        """The engine actor alone, asked by this process."""
        (engine,) = self._algorithm.engines

        async def ask() -> Window:
            return await closed_loop(engine.generate.remote, self._engine_cpu_s, branches, load)

        return asyncio.run(ask())

    def lock_step(self, deal: int, seconds: float) -> Window:
        """Waves of groups: all branches of all groups in flight wait for the slowest in every turn."""
        return self._collect(deal, seconds, max_weights_lag=0, lock_step=self._num_groups * self._group_size)

    def no_barrier(self, deal: int, seconds: float) -> Window:
        """The platform as it is."""
        return self._collect(deal, seconds, max_weights_lag=1, lock_step=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self._algorithm.stop()

    def _collect(self, deal: int, seconds: float, *, max_weights_lag: int, lock_step: int) -> Window:
        """The window opens with the first batch of groups and closes with the first one after `seconds`."""
        self._call("start_measurement", deal=deal, lock_step=lock_step)
        config = self._algorithm.config.copy(copy_frozen=False)
        num_groups = self._num_groups * (1 if lock_step else 2)
        config.training(num_groups_per_train_batch=num_groups, max_weights_lag=max_weights_lag)
        collector = GroupCollector(config, self._runners, lambda: None)
        version = self._algorithm.weights_version
        collector.take(version)
        start_s = end_s = time.monotonic()
        cpu_s, num_groups = ray.get(self._engine_cpu_s()), 0
        while end_s - start_s < seconds:
            num_groups += len(collector.take(version))
            end_s = time.monotonic()
        cpu_s = ray.get(self._engine_cpu_s()) - cpu_s
        self._call("drain")
        answers, num_waves = self._call("measured")
        return Window(answers, start_s, end_s, num_groups, cpu_s, num_waves)

    def _engine_cpu_s(self) -> Any:
        """A reference to the CPU seconds that the engine's process has taken so far."""
        (engine,) = self._algorithm.engines
        return engine.__ray_call__.remote(lambda actor: time.process_time())

    def _call(self, method: str, **arguments: Any) -> Any:
        """A method of the runner, on the runner."""
        (result,) = self._runners.foreach_env_runner(method, kwargs=arguments, local_env_runner=False)
        return result


class _Generate:
    """Stands where the method of an engine's handle stands."""

    def __init__(self, runner: RolloutRunner, engine: Any) -> None:
        self._runner = runner
        self._engine = engine

    def remote(self, prompts: Sequence[Prompt], sampling: Sampling) -> Any:
        return self._runner.ask(self._engine, prompts, sampling)
