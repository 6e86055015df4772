"""GRPO: collect groups, compute advantages, update once, give the engines the new weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.fs as pafs
import ray
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP
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

from vlmgym.engine_actor import start_engine
from vlmgym.engine_group import EngineGroup
from vlmgym.engine_placement import actor_options, engine_bundles, engine_options, learner_places, weights_transport
from vlmgym.grpo.batching import num_tokens
from vlmgym.grpo.collector import GroupCollector
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.group_stats import log_group_stats
from vlmgym.grpo.micro_batches import share_out
from vlmgym.grpo.runner import PlayedGroup
from vlmgym.storage import Storage
from vlmgym.weights import WeightPush


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
        """RLlib's bundles with room for the engines."""
        if isinstance(config, dict):
            config = cls.get_default_config().update_from_dict(config)
        request = super().default_resource_request(config)
        return PlacementGroupFactory(engine_bundles(config, request.bundles), strategy=request.strategy)

    def setup(self, config: Any) -> None:
        self._engines: EngineGroup | None = None
        self._handed_out: tuple[Any, ...] = ()
        self.played_groups: Sequence[PlayedGroup] = ()
        super().setup(config)
        self._collector = GroupCollector(self.config, self.env_runner_group, self._bring_back)
        self._engines = self._start_engines()
        self._sync_weights()

    def training_step(self) -> None:
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER), reduce="mean", window=1):
            self.played_groups = groups = self._collect()
        log_group_stats(self.metrics, [group.stats for group in groups], key=ENV_RUNNER_RESULTS)
        lag = self.weights_version - min(group.stats.weights_version for group in groups)
        self.metrics.log_value("weights_version_lag", lag, window=1)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER), reduce="mean", window=1):
            self._make_room()
            self._update(groups)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER), reduce="mean", window=1):
            self._sync_weights()

    @property
    def weights_version(self) -> int:
        """How many updates the learners have made; the version of the weights that engines serve."""
        return self._version

    def interrupt_on(self, stop: threading.Event) -> None:
        """From when `stop` is set, `train` raises `Interrupted` rather than wait for groups."""
        self._collector.stop = stop

    @property
    def engines(self) -> Sequence[Any]:
        """Handles of the engine actors that serve `weights_version`; changes where one had to be replaced."""
        return () if self._engines is None else self._engines.serving

    def _start_engines(self) -> EngineGroup:
        config = self.config
        places = learner_places(self.learner_group) if config.engine_placement == "colocated" else []
        push = WeightPush(
            self.learner_group,
            POLICY_ID,
            weights_transport(config),
            config.tensor_parallel,
            config.engine_restart_timeout_s,
        )
        return EngineGroup(
            config.num_engines,
            lambda index: start_engine(
                config.engine_type, engine_options(config), actor_options(config, index, places)
            ),
            push,
            config.engine_restart_timeout_s,
        )

    def _collect(self) -> list[PlayedGroup]:
        if not self._engine_group.complete:
            self._bring_back()
        groups = self._collector.take(self.weights_version)
        self.metrics.aggregate(self._collector.metrics, key=ENV_RUNNER_RESULTS)
        self._collector.metrics.clear()
        for name, number in self._collector.counts._asdict().items():
            self.metrics.log_value(f"num_groups_{name}_lifetime", number, window=1)
        self.metrics.log_value("num_engines_replaced_lifetime", self._engine_group.num_replaced, window=1)
        for game, axes in self._collector.tasks.metrics.items():
            self.metrics.log_dict(axes, key=("curriculum", self.config.game_id(game)), window=1)
        return groups

    def _bring_back(self) -> None:
        """Replaces lost engines, and hands restarted runners those that serve."""
        self._engine_group.refresh()
        self._hand_out()
        self.restore_env_runners(self.env_runner_group)

    def _make_room(self) -> None:
        """Colocated engines give their memory to the learners until the next weights come."""
        if self.config.engine_placement == "colocated":
            self._engine_group.sleep()

    def _update(self, groups: Sequence[PlayedGroup]) -> None:
        """One object per learner, which RLlib hands out in order: whole groups, about as many tokens for each."""
        shares = share_out([num_tokens(group.episode) for group in groups], max(1, self.config.num_learners))
        timesteps = {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
        }
        results = self.learner_group.update(
            episodes_refs=[ray.put([groups[i].episode for i in share]) for share in shares],
            timesteps=timesteps,
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    @property
    def _engine_group(self) -> EngineGroup:
        assert self._engines is not None, "setup has not run"
        return self._engines

    def _sync_weights(self) -> None:
        self._version = self._engine_group.sync()
        self._hand_out()

    def _hand_out(self) -> None:
        """Tells the runners which engines serve, where that has changed."""
        if self.engines == self._handed_out:
            return
        self._handed_out = tuple(self.engines)
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                _set_engines(group, self._handed_out)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Gives restarted runners their engines. RLlib's own version would send them weights."""
        if env_runner_group is None or not self.config.restart_failed_env_runners:
            return []
        restored: list[int] = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            _set_engines(env_runner_group, self.engines, restored)
        return restored

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        own = {"collector": self._collector.get_state(), "learner_versions": self._learner_versions()}
        return {**super().get_state(*args, **kwargs), **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises: RuntimeError where a learner has other weights than the state, which RLlib would not tell."""
        super().set_state(state)
        if "collector" in state:
            self._collector.set_state(state["collector"])
            self._check_learners(state["learner_versions"])

    def save_to_path(self, path: Any = None, *, filesystem: Any = None, **kwargs: Any) -> str:
        """As RLlib's, which asks one learner alone; those that shard save together, where all of them see `path`."""
        if self.config.parallelism != "fsdp2":
            saved: str = super().save_to_path(path, filesystem=filesystem, **kwargs)
            return saved
        place = Storage.given(path, filesystem)
        place.filesystem.create_dir(place.path, recursive=True)
        self.start_saving(place.path, place.filesystem, lambda: None)
        self.finish_saving()
        return place.path

    def _check_learners(self, versions: set[int]) -> None:
        found = self._learner_versions()
        if found != versions:
            raise RuntimeError(f"learners must have weights version {versions} after a restore, got {found}")

    def _learner_versions(self) -> set[int]:
        """One, and above `weights_version` where an iteration was broken off between its updates."""
        return set(self._on_learners(lambda learner: learner._weights_seq_no))

    def start_saving(self, path: str, filesystem: pafs.FileSystem, on_written: Callable[[], None]) -> None:
        """Copies what `save_to_path` would write and returns; training may go on while learners write it.

        on_written() is called where the first learner is, when all of it is at `path`. `finish_saving` is to be called
        before the next save. Raises what went wrong on a learner.
        """
        state = self.get_state(not_components=COMPONENT_LEARNER_GROUP)
        super().save_to_path(path, filesystem=filesystem, state=state)
        group = f"{path}/{COMPONENT_LEARNER_GROUP}"
        self.learner_group.save_to_path(group, filesystem=filesystem, state={})
        target = f"{group}/{COMPONENT_LEARNER}"
        self._on_learners(lambda learner: learner.start_saving(target, filesystem, on_written))

    def finish_saving(self) -> None:
        """Waits until nothing is being written any more. Raises what kept a learner from it."""
        self._on_learners(lambda learner: learner.finish_saving())

    def _on_learners(self, function: Callable[[Any], Any]) -> list[Any]:
        results = list(self.learner_group.foreach_learner(function))
        for result in results:
            if not result.ok:
                raise result.get()
        return [result.get() for result in results]

    def restore_from_path(self, path: Any, *args: Any, filesystem: Any = None, **kwargs: Any) -> None:
        """As RLlib's, which reads a filesystem that is not a disk on the driver's node only."""
        if filesystem is None or isinstance(filesystem, pafs.LocalFileSystem):
            super().restore_from_path(path, *args, filesystem=filesystem, **kwargs)
        else:
            place = f"{path}/{COMPONENT_LEARNER_GROUP}/{COMPONENT_LEARNER}"
            self._on_learners(lambda learner: learner.restore_from_path(place, filesystem=filesystem))
            with filesystem.open_input_stream(f"{path}/{self.STATE_FILE_NAME}.pkl") as file:
                self.set_state(cloudpickle.load(file))
        if self._engines is not None:
            self._sync_weights()

    def cleanup(self) -> None:
        super().cleanup()
        if self._engines is not None:
            self._engines.stop()


def _set_engines(env_runner_group: Any, engines: Sequence[Any], worker_ids: Sequence[int] | None = None) -> None:
    env_runner_group.foreach_env_runner(
        lambda runner: runner.set_engines(engines),
        remote_worker_ids=worker_ids,
        local_env_runner=worker_ids is None,
    )
