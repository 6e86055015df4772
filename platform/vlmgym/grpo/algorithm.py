"""GRPO: collect groups, compute advantages, update once, give the engines the new weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.tune import PlacementGroupFactory

from vlmgym.engine_actor import start_engines
from vlmgym.grpo.collector import GroupCollector
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.group import log_group_stats
from vlmgym.grpo.runner import PlayedGroup
from vlmgym.weights import push_weights


class GRPO(Algorithm):
    """Group relative policy optimisation of a vision-language model (arXiv 2402.03300, 2505.13426).

    The model lives on the learners and in checkpoints. Env runners play groups against engine actors, which get the
    learners' weights, tagged with a version, after every update.

    played_groups: what the last iteration learned from, by group id.
    """

    config: GRPOConfig

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """RLlib's bundles, then one per engine."""
        if isinstance(config, dict):
            config = cls.get_default_config().update_from_dict(config)
        request = super().default_resource_request(config)
        engine = {"CPU": config.num_cpus_per_engine, "GPU": config.num_gpus_per_engine}
        return PlacementGroupFactory([*request.bundles, *[engine] * config.num_engines], strategy=request.strategy)

    def setup(self, config: Any) -> None:
        self._engines: list[Any] = []
        self.played_groups: Sequence[PlayedGroup] = ()
        super().setup(config)
        self._collector = GroupCollector(self.config, self.env_runner_group, self._bring_back)
        self._engines = start_engines(self.config)
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                _hand_out(group, self._engines)
        self._sync_weights()

    def training_step(self) -> None:
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER), reduce="mean", window=1):
            self.played_groups = groups = self._collect()
        log_group_stats(self.metrics, [group.stats for group in groups], key=ENV_RUNNER_RESULTS)
        lag = self.weights_version - min(group.stats.weights_version for group in groups)
        self.metrics.log_value("weights_version_lag", lag, window=1)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER), reduce="mean", window=1):
            self._update(groups)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER), reduce="mean", window=1):
            self._sync_weights()

    @property
    def weights_version(self) -> int:
        """How many updates the learners have made; the version of the weights that engines serve."""
        return self._version

    @property
    def engines(self) -> Sequence[Any]:
        """Handles of the engine actors; they serve `weights_version`."""
        return tuple(self._engines)

    def _collect(self) -> list[PlayedGroup]:
        groups = self._collector.take(self.weights_version)
        self.metrics.aggregate(self._collector.metrics, key=ENV_RUNNER_RESULTS)
        self._collector.metrics.clear()
        for name, number in self._collector.counts._asdict().items():
            self.metrics.log_value(f"num_groups_{name}_lifetime", number, window=1)
        return groups

    def _bring_back(self) -> None:
        """Hands restarted runners their engines, and restarted engines the weights."""
        self.restore_env_runners(self.env_runner_group)
        self._sync_weights()

    def _update(self, groups: Sequence[PlayedGroup]) -> None:
        timesteps = {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
        }
        results = self.learner_group.update(
            episodes_refs=[group.episodes for group in groups],
            timesteps=timesteps,
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _sync_weights(self) -> None:
        self._version = push_weights(self.learner_group, POLICY_ID, self._engines)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Gives restarted runners their engines. RLlib's own version would send them weights."""
        if env_runner_group is None or not self.config.restart_failed_env_runners:
            return []
        restored: list[int] = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            _hand_out(env_runner_group, self._engines, restored)
        return restored

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_state(*args, **kwargs), "collector": self._collector.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "collector" in state:
            self._collector.set_state(state["collector"])

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        if self._engines:
            self._sync_weights()

    def cleanup(self) -> None:
        super().cleanup()
        for engine in self._engines:
            ray.kill(engine)
        self._engines = []


def _hand_out(env_runner_group: Any, engines: Sequence[Any], worker_ids: Sequence[int] | None = None) -> None:
    env_runner_group.foreach_env_runner(
        lambda runner: runner.set_engines(engines),
        remote_worker_ids=worker_ids,
        local_env_runner=worker_ids is None,
    )
