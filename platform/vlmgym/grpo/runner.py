"""The env runner: plays groups against engines without a barrier, every branch at the pace of its own completions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import ray
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.tune.registry import ENV_CREATOR, _global_registry

from vlmgym.grpo.group import GroupPlayer, GroupStats, group_stats, log_group_stats

Outcome: TypeAlias = MultiAgentEpisode | Exception


class PlayedGroup(NamedTuple):
    """A finished group. `episodes` refers to a list with its one multi-agent episode."""

    group_id: int
    episodes: ray.ObjectRef[list[MultiAgentEpisode]]
    stats: GroupStats


class DroppedGroup(NamedTuple):
    """A group that a fault cost: it is counted and replaced, never trained on."""

    group_id: int
    reason: str


class Sample(NamedTuple):
    """What `sample_groups` returns; `metrics` is what callbacks logged."""

    groups: list[PlayedGroup | DroppedGroup]
    metrics: dict[str, Any]


class VLMEnvRunner(EnvRunner, Checkpointable):
    """Holds environments and no weights; the algorithm hands it engine actors.

    `num_envs_per_env_runner` groups are in flight at once.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.module = None
        self.spaces = kwargs.get("spaces") or {}
        self._callbacks = [make() for make in force_list(self.config.callbacks_class)]
        self._engines: list[Any] = []
        self._environments: list[Any] = []
        self._finished: list[GroupStats] = []
        self._next_group_id = 0
        if self.worker_index is None or self.worker_index > 0 or self.config.num_env_runners == 0:
            self.make_env()

    def set_engines(self, engines: Sequence[Any]) -> None:
        self._engines = list(engines)

    def sample_groups(self, group_ids: Sequence[int]) -> Sample:
        """Plays these groups; episodes stay in the object store, so only references go through the driver."""
        groups: list[PlayedGroup | DroppedGroup] = []
        for group_id, outcome in self._play(group_ids, explore=True):
            if isinstance(outcome, Exception):
                groups.append(DroppedGroup(group_id, f"{type(outcome).__name__}: {outcome}"))
            else:
                groups.append(PlayedGroup(group_id, ray.put([outcome]), group_stats(outcome)))
        return Sample(groups, self.metrics.reduce())

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[MultiAgentEpisode]:
        """RLlib's own entry point, used by its evaluation: complete groups; `explore=False` decodes greedily.

        Raises:
            ValueError: random_actions, which have no meaning for responses.
        """
        if random_actions:
            raise ValueError("random_actions must be False: a policy here answers with text")
        explore = self.config.explore if explore is None else explore
        if num_episodes is None and num_timesteps is None:
            num_episodes = len(self._environments)
        episodes: list[MultiAgentEpisode] = []
        while (missing := _missing(episodes, num_episodes, num_timesteps)) > 0:
            first, self._next_group_id = self._next_group_id, self._next_group_id + missing
            outcomes = [outcome for _, outcome in self._play(range(first, self._next_group_id), explore)]
            played = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
            if not played:
                raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))
            episodes += played
        self._finished += [group_stats(episode) for episode in episodes]
        return episodes

    def get_metrics(self) -> dict[str, Any]:
        """Means over the groups that `sample` finished since the last call, and what callbacks logged."""
        if self._finished:
            log_group_stats(self.metrics, self._finished, key=None)
        self._finished = []
        metrics: dict[str, Any] = self.metrics.reduce()
        return metrics

    def make_env(self) -> None:
        self._context = EnvContext(
            self.config.env_config, worker_index=self.worker_index or 0, num_workers=self.num_workers
        )
        named = isinstance(self.config.env, str)
        self._create = _global_registry.get(ENV_CREATOR, self.config.env) if named else self.config.env
        self._environments = [self._new_env() for _ in range(self.config.num_envs_per_env_runner)]
        self.env = self._environments[0]

    def make_module(self) -> None:
        """None: the policy lives in the engines."""

    def assert_healthy(self) -> None:
        assert self._environments, "make_env has not run"

    def get_spaces(self) -> dict[str, Any]:
        if not self._environments:
            return dict(self.spaces)
        env = self._environments[0]
        observations = {agent: env.get_observation_space(agent) for agent in env.possible_agents}
        actions = {agent: env.get_action_space(agent) for agent in env.possible_agents}
        both = gym.spaces.Dict(observations), gym.spaces.Dict(actions)
        one = observations[env.possible_agents[0]], actions[env.possible_agents[0]]
        return {INPUT_ENV_SPACES: both, INPUT_ENV_SINGLE_SPACES: both, **dict.fromkeys(self.config.policies, one)}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"next_group_id": self._next_group_id}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next_group_id = state.get("next_group_id", self._next_group_id)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[Any]:
        return []

    def stop(self) -> None:
        for env in self._environments:
            env.close()

    def _play(self, group_ids: Iterable[int], explore: bool) -> list[tuple[int, Outcome]]:
        if not self._engines:
            raise RuntimeError("this runner has no engines: GRPO hands them out in setup")
        outcomes = asyncio.run(self._play_all(deque(group_ids), explore))
        episodes = [outcome for _, outcome in outcomes if not isinstance(outcome, Exception)]
        self._call_back("on_sample_end", samples=episodes)
        return sorted(outcomes, key=lambda outcome: outcome[0])

    def _play_all(self, waiting: deque[int], explore: bool) -> Any:
        """A coroutine that keeps every environment busy until all groups are played; a fault costs its group alone."""
        outcomes: list[tuple[int, Outcome]] = []

        async def play_on(slot: int) -> None:
            while waiting:
                group_id = waiting.popleft()
                engine = self._engines[group_id % len(self._engines)]
                env = self._environments[slot]
                player = GroupPlayer(self.config, env, engine, group_id, explore, self._on_episode)
                try:
                    outcomes.append((group_id, await player.play()))
                except Exception as error:
                    outcomes.append((group_id, error))
                    self._environments[slot] = self._new_env()

        async def play_all() -> list[tuple[int, Outcome]]:
            await asyncio.gather(*(play_on(slot) for slot in range(len(self._environments))))
            return outcomes

        return play_all()

    def _new_env(self) -> Any:
        env = self._create(self._context)
        self._call_back("on_environment_created", env=env, env_context=self._context)
        return env

    def _on_episode(self, name: str, episode: MultiAgentEpisode) -> None:
        extra: dict[str, Any] = {"prev_episode_chunks": []} if name == "on_episode_end" else {}
        self._call_back(name, episode=episode, env=self.env, rl_module=None, env_index=0, **extra)

    def _call_back(self, name: str, **arguments: Any) -> None:
        make_callback(
            name,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{name}"),
            kwargs={"env_runner": self, "metrics_logger": self.metrics, **arguments},
        )


def _missing(episodes: Sequence[MultiAgentEpisode], num_episodes: int | None, num_timesteps: int | None) -> int:
    """How many more groups to play for the number of groups, or of decisions, that was asked for."""
    if num_episodes is not None:
        return num_episodes - len(episodes)
    assert num_timesteps is not None
    played = sum(episode.agent_steps() for episode in episodes)
    return int(played < num_timesteps)
