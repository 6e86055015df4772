"""The supervised warm-up before GRPO: the same module on the same kind of learners, from a teacher's demonstrations.

Perception blocks are exact: the "perception-enhanced cold start" of G1 (arXiv 2505.13426).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
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

from vlmgym.grpo.algorithm import GRPO
from vlmgym.grpo.batching import SEQUENCES, MicroBatch, object_array
from vlmgym.grpo.collector import Interrupted
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.config_rules import check_shared_evenly
from vlmgym.grpo.curriculum import Ladder, any_place
from vlmgym.grpo.learner import GRPOLearner
from vlmgym.grpo.loss import masked_sum
from vlmgym.grpo.mixture import Mixture
from vlmgym.grpo.sequences import TrainSequence
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_envs.splits import draw_start
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import Observation, ask
from vlmgym_policies.vlm_module import ENTROPY, LOGPROBS

DEMONSTRATION_STREAM = 1
PREFETCHED_BATCHES = 8


class ColdStartConfig(GRPOConfig):
    """GRPOConfig, less the reinforcement learning, with a teacher."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ColdStart)
        self.kl_coeff = 0.0
        self.lr = 1e-5
        self.teacher: Mapping[str, float] | Sequence[Mapping[str, float]] = {"solver": 1.0}
        self.demonstrations_per_update = 32
        self.updates_per_iteration = 10
        self.answer_weight = 1.0

    def demonstrations(
        self,
        *,
        teacher: Mapping[str, float] | Sequence[Mapping[str, float]] = NotProvided,
        demonstrations_per_update: int = NotProvided,
        updates_per_iteration: int = NotProvided,
        answer_weight: float = NotProvided,
    ) -> Self:
        """What is imitated.

        Args:
            teacher: weight per name in the game's `teachers`, of every game or a list with one such mapping per game.
            demonstrations_per_update: batch size, over all learners.
            updates_per_iteration: optimizer steps per `train()`, up to the next multiple of it; engines get the weights
                after the last one.
            answer_weight: loss weight of the tokens from <think> on; those of the perception block weigh 1.
        """
        return self._set(
            teacher=teacher,
            demonstrations_per_update=demonstrations_per_update,
            updates_per_iteration=updates_per_iteration,
            answer_weight=answer_weight,
        )

    def validate(self) -> None:
        super().validate()
        check_shared_evenly(self, "demonstrations_per_update")
        if self.answer_weight <= 0:
            raise ValueError(f"answer_weight must be above 0, got {self.answer_weight}")
        for env, teacher in zip(GroupEnvConfig.mixture(self.env_config), self.teachers, strict=True):
            Demonstrator(env.make_game(), teacher)

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
            dict(self.config.env_config),
            self.config.teachers,
            self.config.model_config["path"],
            self.config.answer_weight,
            self.config.seed or 0,
            self.config.observation,
            self.config.weights_of_games,
            self.config.ladders_of_games,
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


class DemonstrationWriter:
    """Writes training sequences; the i-th one depends on the seed and on i alone.

    Games take turns by weight. Where one has a curriculum, each axis is at a uniformly drawn step of all it can reach:
    so GRPO meets no board that the model has not learned to read.
    """

    def __init__(
        self,
        env_config: dict[str, Any],
        teachers: Sequence[Mapping[str, float]],
        path: str,
        answer_weight: float,
        seed: int,
        observation: Observation = "picture",
        weights: Sequence[float] = (1.0,),
        ladders: Mapping[int, Ladder] = MappingProxyType({}),
    ) -> None:
        self._configs = GroupEnvConfig.mixture(env_config)
        self._teachers = teachers
        self._mixture = Mixture(weights)
        self._ladders = ladders
        self._demonstrators: dict[Any, Demonstrator] = {}
        self._processor = VLMProcessor(path)
        self._answer_weight = answer_weight
        self._seed = seed
        self._observation: Observation = observation

    def write(self, first: int, count: int) -> list[TrainSequence]:
        return [self._write_one(index) for index in range(first, first + count)]

    def _write_one(self, index: int) -> TrainSequence:
        rng = np.random.default_rng([self._seed, DEMONSTRATION_STREAM, index])
        number = self._mixture.game(index)
        env, demonstrator = self._configs[number], self._demonstrator(number, rng)
        game = demonstrator.game
        state = draw_start(game, int(rng.integers(2**62)), env.start, env.split, env.held_out)
        prompt = ask(game, state, self._observation)
        text = demonstrator.demonstrate(state, rng)
        response_ids, spans = self._processor.spell_response(text)
        answered = np.array([end > text.index("<think>") for _, end in spans])
        weights = np.where(answered, self._answer_weight, 1.0).astype(np.float32)
        return TrainSequence(
            prompt_ids=self._processor.encode(prompt),
            response_ids=response_ids,
            old_logprobs=np.zeros_like(weights),
            weights=weights,
            advantages=np.ones_like(weights),
            turns=np.zeros(len(weights), dtype=np.int32),
            denominator=float(weights.sum()),
            images=prompt.images,
        )

    def _demonstrator(self, number: int, rng: np.random.Generator) -> Demonstrator:
        """Of a game, at its level or, where it has a curriculum, at a level of that."""
        knobs = any_place(self._ladders[number], rng) if number in self._ladders else {}
        key = number, tuple(sorted(knobs.items()))
        if key not in self._demonstrators:
            game = self._configs[number].make_game(**knobs)
            self._demonstrators[key] = Demonstrator(game, self._teachers[number])
        return self._demonstrators[key]
