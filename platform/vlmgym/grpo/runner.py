"""The env runner: plays groups against engines without a barrier, every branch at the pace of its own completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

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

from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group import GroupPlayer
from vlmgym.grpo.group_loop import Finished, GroupLoop, OnBranchEnd, Ticket
from vlmgym.grpo.group_stats import GroupStats, group_stats, log_group_stats
from vlmgym.grpo.mixture import Mixture
from vlmgym.grpo.tasks import FIRST_GAME, Task
from vlmgym_policies.engine import NoWeightsError

GROUPS_PER_ENV = 4
"""Where branches of a group last unequally long, about so many groups fill the places of one."""


class PlayedGroup(NamedTuple):
    """A finished group: its one multi-agent episode, by value, for what a runner holds is lost with the runner.

    task: what was asked for.
    """

    group_id: int
    episode: MultiAgentEpisode
    stats: GroupStats
    task: Task = FIRST_GAME


class DroppedGroup(NamedTuple):
    """A group that a fault cost; it is never trained on.

    lost: the fault was that its engine or runner went away, so the group itself may be played again.
    """

    group_id: int
    reason: str
    lost: bool = False


class Sample(NamedTuple):
    """What finished since the last call; `metrics` is what callbacks logged."""

    groups: list[PlayedGroup | DroppedGroup]
    metrics: dict[str, Any]


class VLMEnvRunner(EnvRunner, Checkpointable):
    """Holds environments and no weights; the algorithm hands it engine actors.

    As many branches are in flight at once as `num_envs_per_env_runner` groups have, and less than a group more, in a
    thread of their own: they go on while the algorithm does something else. A further group begins when a branch has
    ended, though others of its group go on; so there are GROUPS_PER_ENV environments for each of these groups.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.module = None
        self.spaces = kwargs.get("spaces") or {}
        self._callbacks = [make() for make in force_list(self.config.callbacks_class)]
        self._engines: list[Any] = []
        self._environments: list[EnvThread] = []
        self._groups: GroupLoop[MultiAgentEpisode] | None = None
        self._metrics_lock = Lock()
        self._evaluated: list[GroupStats] = []
        self._next_group_id = 0
        self._mixture = Mixture(self.config.weights_of_games)
        if self.worker_index is None or self.worker_index > 0 or self.config.num_env_runners == 0:
            self.make_env()

    def set_engines(self, engines: Sequence[Any]) -> None:
        self._engines = list(engines)

    def play(self, tasks: Mapping[int, Task]) -> None:
        """Queues these groups, by id, and returns at once; `finished` tells what became of them.

        Raises:
            RuntimeError: there are no engines.
        """
        self._submit(tasks, explore=True)

    def finished(self, timeout_s: float) -> Sample:
        """Groups that `play` was asked for and that ended; waits for the first of them at most `timeout_s`."""
        groups: list[PlayedGroup | DroppedGroup] = []
        for group_id, outcome in self._take(timeout_s):
            if isinstance(outcome, Exception):
                lost = isinstance(outcome, ray.exceptions.RayActorError | NoWeightsError)
                groups.append(DroppedGroup(group_id, f"{type(outcome).__name__}: {outcome}", lost))
            else:
                groups.append(PlayedGroup(group_id, outcome, group_stats(outcome)))
        with self._metrics_lock:
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

        Each game of a mixture has its share, at its own level.

        Raises:
            ValueError: random_actions, which have no meaning for responses.
        """
        if random_actions:
            raise ValueError("random_actions must be False: a policy here answers with text")
        explore = self.config.explore if explore is None else explore
        if num_episodes is None and num_timesteps is None:
            num_episodes = self.config.num_envs_per_env_runner
        episodes: list[MultiAgentEpisode] = []
        while (missing := _missing(episodes, num_episodes, num_timesteps)) > 0:
            first, self._next_group_id = self._next_group_id, self._next_group_id + missing
            new = range(first, self._next_group_id)
            self._submit({group_id: Task(self._mixture.game(group_id)) for group_id in new}, explore)
            outcomes: list[Finished[MultiAgentEpisode]] = []
            while len(outcomes) < missing:
                outcomes += self._take(None)
            played = [
                outcome
                for _, outcome in sorted(outcomes, key=lambda group: group.group_id)
                if not isinstance(outcome, Exception)
            ]
            if not played:
                raise next(outcome for _, outcome in outcomes if isinstance(outcome, Exception))
            episodes += played
        self._evaluated += [group_stats(episode) for episode in episodes]
        return episodes

    def get_metrics(self) -> dict[str, Any]:
        """Means over the groups that `sample` finished since the last call, and what callbacks logged."""
        with self._metrics_lock:
            if self._evaluated:
                log_group_stats(self.metrics, self._evaluated, key=None)
            self._evaluated = []
            metrics: dict[str, Any] = self.metrics.reduce()
        return metrics

    def make_env(self) -> None:
        self._context = EnvContext(
            self.config.env_config, worker_index=self.worker_index or 0, num_workers=self.num_workers
        )
        named = isinstance(self.config.env, str)
        self._create = _global_registry.get(ENV_CREATOR, self.config.env) if named else self.config.env
        num_groups = self.config.num_envs_per_env_runner
        self._environments = [self._new_env() for _ in range(GROUPS_PER_ENV * num_groups)]
        self.env = self._environments[0].env
        if self._groups is not None:
            self._groups.stop()
        group_size = len(self.env.possible_agents)
        self._groups = GroupLoop(self._play_group, len(self._environments), num_groups * group_size, group_size)

    def make_module(self) -> None:
        """None: the policy lives in the engines."""

    def assert_healthy(self) -> None:
        assert self._environments, "make_env has not run"

    def get_spaces(self) -> dict[str, Any]:
        if not self._environments:
            return dict(self.spaces)
        env = self._environments[0].env
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
        if self._groups is not None:
            self._groups.stop()
        for environment in self._environments:
            environment.close()

    def _submit(self, tasks: Mapping[int, Task], explore: bool) -> None:
        if not self._engines or self._groups is None:
            raise RuntimeError("this runner has no engines: GRPO hands them out in setup")
        self._groups.submit(Ticket(group_id, explore, task) for group_id, task in tasks.items())

    def _take(self, timeout_s: float | None) -> list[Finished[MultiAgentEpisode]]:
        assert self._groups is not None
        finished = self._groups.take(timeout_s)
        episodes = [outcome for _, outcome in finished if not isinstance(outcome, Exception)]
        if finished:
            self._call_back("on_sample_end", samples=episodes)
        return finished

    async def _play_group(self, slot: int, ticket: Ticket, on_branch_end: OnBranchEnd) -> MultiAgentEpisode:
        """Plays one group in the environment of `slot`, which is replaced where it met a fault."""
        engine = self._engines[ticket.group_id % len(self._engines)]
        environment = self._environments[slot]
        player = GroupPlayer(
            self.config,
            environment,
            engine,
            ticket.group_id,
            ticket.explore,
            self._on_episode,
            on_branch_end,
            ticket.task,
        )
        try:
            return await player.play()
        except Exception:
            environment.close()
            self._environments[slot] = self._new_env()
            raise

    def _new_env(self) -> EnvThread:
        env = self._create(self._context)
        self._call_back("on_environment_created", env=env, env_context=self._context)
        return EnvThread(env)

    def _on_episode(self, name: str, episode: MultiAgentEpisode) -> None:
        extra: dict[str, Any] = {"prev_episode_chunks": []} if name == "on_episode_end" else {}
        self._call_back(name, episode=episode, env=self.env, rl_module=None, env_index=0, **extra)

    def _call_back(self, name: str, **arguments: Any) -> None:
        with self._metrics_lock:
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
