"""The settings of rollouts: who generates, how responses are drawn and rewarded, and how long to wait for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import NotProvided

from vlmgym.grpo.learner_config import LearnerConfig
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
