"""The settings of rollouts: who generates, how responses are drawn and rewarded, and how long to wait for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import NotProvided

from vlmgym.grpo.curriculum import Ladder
from vlmgym.grpo.learner_config import LearnerConfig
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_policies.history import History
from vlmgym_policies.prompting import Observation


class RolloutConfig(LearnerConfig):
    """The sections of `GRPOConfig` that say where groups come from; the defaults are those of G1."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.env_step_timeout_s = 60.0
        self.env_reset_timeout_s = 60.0
        self.generation_timeout_s = 600.0
        self.engine_restart_timeout_s = 1800.0
        self.temperature = 1.0
        self.max_tokens = 8192
        self.observation: Observation = "picture"
        self.history = History()
        self.reward_weights: dict[str, float] = {}
        self.game_weights: Sequence[float] = ()
        self.game_rewards: Sequence[Mapping[str, float]] = ()
        self.ladders: Sequence[Ladder | None] = ()
        self.engine_type = "hf"
        self.engine_options: dict[str, Any] = {}
        self.num_engines = 1
        self.num_cpus_per_engine: float = 1
        self.num_gpus_per_engine: float = 0
        self.engine_placement = "disaggregated"
        self.tensor_parallel = 1

    def engines(
        self,
        *,
        engine_type: str = NotProvided,
        num_engines: int = NotProvided,
        num_cpus_per_engine: float = NotProvided,
        num_gpus_per_engine: float = NotProvided,
        engine_placement: Literal["disaggregated", "colocated"] = NotProvided,
        tensor_parallel: int = NotProvided,
        engine_options: Mapping[str, Any] = NotProvided,
    ) -> Self:
        """Who generates: actors of one engine type.

        Args:
            engine_placement: "disaggregated" engines have CPUs and GPUs of their own. "colocated" ones share the GPUs
                of the learners, in their order, and sleep while those update; they reserve CPUs alone.
            tensor_parallel: GPUs that share one engine's model.
            engine_options: for the engine's constructor.
        """
        return self._set(
            engine_type=engine_type,
            num_engines=num_engines,
            num_cpus_per_engine=num_cpus_per_engine,
            num_gpus_per_engine=num_gpus_per_engine,
            engine_placement=engine_placement,
            tensor_parallel=tensor_parallel,
            engine_options=engine_options,
        )

    def timeouts(
        self,
        *,
        env_step_timeout_s: float = NotProvided,
        env_reset_timeout_s: float = NotProvided,
        generation_timeout_s: float = NotProvided,
        engine_restart_timeout_s: float = NotProvided,
    ) -> Self:
        """How long an environment or an engine may take before the group that waits for it is replaced.

        Args:
            engine_restart_timeout_s: how long a run waits for a new engine where none is left, and for one that loads.
        """
        return self._set(
            env_step_timeout_s=env_step_timeout_s,
            env_reset_timeout_s=env_reset_timeout_s,
            generation_timeout_s=generation_timeout_s,
            engine_restart_timeout_s=engine_restart_timeout_s,
        )

    def sampling(self, *, temperature: float = NotProvided, max_tokens: int = NotProvided) -> Self:
        """How responses are drawn in training; evaluation with `explore=False` is greedy."""
        return self._set(temperature=temperature, max_tokens=max_tokens)

    def prompting(self, *, observation: Observation = NotProvided, history: History = NotProvided) -> Self:
        """What prompts hold.

        Args:
            observation: of the board its "picture", its exact "text", or both, an "oracle" for perception.
            history: of the earlier turns of an episode; nothing by default.
        """
        return self._set(observation=observation, history=history)

    def rewards(self, **weights: float) -> Self:
        """Weights (`game`, `perception`, `format`) that differ from the paper's for the game that is played."""
        return self._set(reward_weights=weights)

    def games(
        self,
        *,
        weights: Sequence[float] = NotProvided,
        rewards: Sequence[Mapping[str, float]] = NotProvided,
        ladders: Sequence[Ladder | None] = NotProvided,
    ) -> Self:
        """How the games in `env_config["games"]` are mixed; one item per game, in their order.

        Args:
            weights: shares of the groups; alike by default.
            rewards: what differs from `rewards` in each game.
            ladders: curricula, None for a game without.
        """
        return self._set(game_weights=weights, game_rewards=rewards, ladders=ladders)

    @property
    def num_games(self) -> int:
        return len(self.env_config.get("games", ("the one",)))

    def game_id(self, number: int) -> str:
        """The id of a game, by its number."""
        return GroupEnvConfig.mixture(self.env_config)[number].game

    @property
    def weights_of_games(self) -> Sequence[float]:
        return self.game_weights or [1.0] * self.num_games

    @property
    def ladders_of_games(self) -> dict[int, Ladder]:
        """By the number of the game, of those that have one."""
        return {game: ladder for game, ladder in enumerate(self.ladders) if ladder is not None}

    def rewards_of_game(self, number: int) -> dict[str, float]:
        """The weights that differ from the paper's in one game."""
        return {**self.reward_weights, **(self.game_rewards[number] if self.game_rewards else {})}
