"""The supervised warm-up before GRPO: the same module on the same kind of learners, from a teacher's demonstrations.

Perception blocks are exact: the "perception-enhanced cold start" of G1 (arXiv 2505.13426).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import ray
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from vlmgym.demonstrations import (
    Demonstrations,
    DemonstrationWriter,
    StoredDemonstrations,
    TaughtDemonstrations,
    check_stored,
)
from vlmgym.grpo.algorithm import GRPO
from vlmgym.grpo.batching import SEQUENCES, MicroBatch, object_array
from vlmgym.grpo.collector import Interrupted
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.config_rules import check_shared_evenly
from vlmgym.grpo.learner import GRPOLearner
from vlmgym.grpo.loss import masked_sum
from vlmgym.grpo.sequences import TrainSequence
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_policies.baselines import Demonstrator, Wording
from vlmgym_policies.vlm_module import ENTROPY, LOGPROBS

PREFETCHED_BATCHES = 8


class ColdStartConfig(GRPOConfig):
    """GRPOConfig, less the reinforcement learning, with a teacher."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ColdStart)
        self.kl_coeff = 0.0
        self.lr = 1e-5
        self.teacher: Mapping[str, float] | Sequence[Mapping[str, float]] = {"solver": 1.0}
        self.wording: Wording = "terse"
        self.data: str | None = None
        self.demonstrations_per_update = 32
        self.updates_per_iteration = 10
        self.answer_weight = 1.0

    def demonstrations(
        self,
        *,
        teacher: Mapping[str, float] | Sequence[Mapping[str, float]] = NotProvided,
        wording: Wording = NotProvided,
        data: str | None = NotProvided,
        demonstrations_per_update: int = NotProvided,
        updates_per_iteration: int = NotProvided,
        answer_weight: float = NotProvided,
    ) -> Self:
        """What is imitated.

        Args:
            teacher: weight per name in the game's `teachers`, of every game or a list with one such mapping per game.
            wording: of the teachers' reasoning.
            data: directory of a data set whose training rows are imitated, instead of these teachers.
            demonstrations_per_update: batch size, over all learners.
            updates_per_iteration: optimizer steps per `train()`, up to the next multiple of it; engines get the weights
                after the last one.
            answer_weight: loss weight of the tokens from <think> on; those of the perception block weigh 1.
        """
        return self._set(
            teacher=teacher,
            wording=wording,
            data=data,
            demonstrations_per_update=demonstrations_per_update,
            updates_per_iteration=updates_per_iteration,
            answer_weight=answer_weight,
        )

    def validate(self) -> None:
        super().validate()
        check_shared_evenly(self, "demonstrations_per_update")
        if self.answer_weight <= 0:
            raise ValueError(f"answer_weight must be above 0, got {self.answer_weight}")
        envs = GroupEnvConfig.mixture(self.env_config)
        if self.data is not None:
            check_stored(self.data, envs, self.observation)
            return
        for env, teacher in zip(envs, self.teachers, strict=True):
            Demonstrator(env.make_game(), teacher)

    @property
    def make_demonstrations(self) -> Callable[[], Demonstrations]:
        """What makes them, in the process that spells them."""
        seed, weights = self.seed or 0, self.weights_of_games
        if self.data is not None:
            games = [(env.game, env.level) for env in GroupEnvConfig.mixture(self.env_config)]
            return partial(StoredDemonstrations, self.data, games, seed=seed, weights=weights)
        return partial(
            TaughtDemonstrations,
            dict(self.env_config),
            self.teachers,
            seed=seed,
            observation=self.observation,
            wording=self.wording,
            weights=weights,
            ladders=self.ladders_of_games,
        )

    @property
    def teachers(self) -> list[Mapping[str, float]]:
        """One per game."""
        return [self.teacher] * self.num_games if isinstance(self.teacher, Mapping) else list(self.teacher)

    def get_default_learner_class(self) -> type:
        return ColdStartLearner


class ColdStart(GRPO):
    """Supervised training of the module that GRPO trains; a checkpoint of it is where GRPO starts."""

    config: ColdStartConfig

    @classmethod
    def get_default_config(cls) -> ColdStartConfig:
        return ColdStartConfig()

    def setup(self, config: Any) -> None:
        super().setup(config)
        writer = ray.remote(num_cpus=0)(DemonstrationWriter)
        self._writer = writer.remote(
            self.config.make_demonstrations, self.config.model_config["path"], self.config.answer_weight
        )
        self._coming: deque[Any] = deque()
        self._next_demonstration = 0
        self._stop = threading.Event()

    @property
    def num_updates(self) -> int:
        """Since the start of the run."""
        return self._next_demonstration // self.config.demonstrations_per_update

    def interrupt_on(self, stop: threading.Event) -> None:
        """From when `stop` is set, `train` raises `Interrupted` after the update that is under way.

        A run that is restored from what is saved then goes on in the middle of that iteration.
        """
        self._stop = stop

    def training_step(self) -> None:
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER), reduce="mean", window=1):
            self._make_room()
            self._update_once()
            while self.num_updates % self.config.updates_per_iteration:
                if self._stop.is_set():
                    raise Interrupted
                self._update_once()
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER), reduce="mean", window=1):
            self._sync_weights()

    def _update_once(self) -> None:
        records = self._take_batch()
        batch = SampleBatch({SEQUENCES: object_array(records)})
        steps = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        self.metrics.log_value(steps, len(records), reduce="lifetime_sum")
        results = self.learner_group.update(
            batch=MultiAgentBatch({POLICY_ID: batch}, env_steps=len(records)),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(steps)},
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _take_batch(self) -> list[TrainSequence]:
        """The next demonstrations in order; some batches ahead are being written meanwhile."""
        size = self.config.demonstrations_per_update
        while len(self._coming) < PREFETCHED_BATCHES:
            first = self._next_demonstration + size * len(self._coming)
            self._coming.append(self._writer.write.remote(first, size))
        self._next_demonstration += size
        records: list[TrainSequence] = ray.get(self._coming.popleft())
        return records

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_state(*args, **kwargs), "next_demonstration": self._next_demonstration}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._next_demonstration = state.get("next_demonstration", self._next_demonstration)
        self._coming.clear()

    def cleanup(self) -> None:
        super().cleanup()
        ray.kill(self._writer)


class ColdStartLearner(GRPOLearner):
    """Token-mean cross-entropy of the demonstrations."""

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: MicroBatch, fwd_out: Any) -> Any:
        loss = masked_sum(-fwd_out[LOGPROBS], batch.weights)
        self._add("loss", loss)
        self._add("entropy", masked_sum(fwd_out[ENTROPY], batch.weights))
        return loss
