"""Learners of a tiny Qwen2.5-VL without Ray's actors, and what they learn from: sequences with pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from vlmgym.grpo.batching import SEQUENCES, object_array
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.learner import GRPOLearner
from vlmgym.grpo.sequences import TrainSequence
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import make_prompt

Batch = list[TrainSequence]


def make_config(path: Path, num_learners: int, parallelism: str, **options: Any) -> GRPOConfig:
    vlm = {name: options.pop(name) for name in ("dtype", "train_vision", "lora") if name in options}
    config = GRPOConfig().environment(env_config={"game": "shisen_sho", "level": "tiny", "group_size": 3})
    config.training(lr=1e-3, kl_coeff=0.05, micro_batch_tokens=192, grad_clip=0.5, num_groups_per_train_batch=2)
    return config.vlm(str(path), **vlm).learners(num_learners=num_learners, parallelism=parallelism, **options)


def make_learner(config: GRPOConfig) -> GRPOLearner:
    """As RLlib's learner group makes one."""
    spaces = {POLICY_ID: (Text(1), Text(1))}
    module_spec = config.get_multi_rl_module_spec(spaces=spaces)
    learner: GRPOLearner = config.learner_class(config=config, module_spec=module_spec)
    learner.build()
    return learner


def update(learner: GRPOLearner, records: Batch) -> Any:
    batch = MultiAgentBatch({POLICY_ID: SampleBatch({SEQUENCES: object_array(records)})}, env_steps=len(records))
    return learner.update(batch=batch, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 0})


def weights_of(learner: GRPOLearner) -> dict[str, np.ndarray]:
    """By all learners together, where they hold shards."""
    return {name: value.numpy() for name, value in learner.module[POLICY_ID].unwrapped().weights().items()}


def draw(path: Path, game: Any, seed: int, lengths: list[int]) -> Batch:
    """One sequence per length of a response, on boards of several sizes."""
    processor, rng = VLMProcessor(str(path)), np.random.default_rng(seed)
    words = np.setdiff1d(np.arange(processor.vocab_size), processor.banned_token_ids)
    records = []
    for index, length in enumerate(lengths):
        board = game.render(game.mid_game(100 * seed + index))
        prompt = make_prompt(game.prompt, board[: board.shape[0] // (1 + index % 2)])
        records.append(
            TrainSequence(
                prompt_ids=processor.encode(prompt),
                response_ids=rng.choice(words, length).astype(np.int32),
                old_logprobs=rng.normal(-6.0, 0.3, length).astype(np.float32),
                weights=np.ones(length, dtype=np.float32),
                advantages=np.full(length, rng.normal(), dtype=np.float32),
                turns=np.zeros(length, dtype=np.int32),
                denominator=float(length),
                images=prompt.images,
                image_digests=tuple(map(processor.image_digest, prompt.images)),
            )
        )
    return records


def together(shares: list[list[Batch]]) -> list[list[Batch]]:
    return [[[record for batch in share for record in batch]] for share in shares]
