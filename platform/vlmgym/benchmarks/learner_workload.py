"""Decides what the benchmark of the learner learns from: groups as long as the demonstration's, new in each step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from vlmgym.grpo.batching import RESPONSE_IDS
from vlmgym.grpo.config import GRPOConfig
from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group import GroupPlayer
from vlmgym_envs.registry import make_game
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.tiny import make_tiny_vlm

GAME, LEVEL = "shisen_sho", "tiny"
MIN_TOKENS, MAX_TOKENS = 26, 48
"""Of a response, all lengths alike: the range of those that the demonstration in `jobs/shisen.yaml` samples."""
MICRO_BATCH_TOKENS = 10_240
LR, KL_COEFF, CLIP, BETAS, WEIGHT_DECAY, GRAD_CLIP = 8e-4, 0.005, 0.2, (0.9, 0.95), 0.01, 1.0
NUM_RESPONSES = 1000


class Workload(NamedTuple):
    """What every contender is told. device: "cpu" or "cuda"; dtype: of all weights; num_threads: of torch."""

    model: str
    num_groups: int
    group_size: int
    device: str
    dtype: str
    num_threads: int

    @property
    def num_sequences(self) -> int:
        return self.num_groups * self.group_size

    @property
    def config(self) -> GRPOConfig:
        """The platform's settings: those of the demonstration, learner in the caller's process."""
        config = GRPOConfig().vlm(self.model, dtype=self.dtype)
        config.environment(
            GameGroupEnv, env_config={"game": GAME, "level": LEVEL, "group_size": self.group_size, "start": "mid_game"}
        )
        config.training(
            lr=LR,
            num_groups_per_train_batch=self.num_groups,
            kl_coeff=KL_COEFF,
            clip_low=CLIP,
            clip_high=CLIP,
            adam_betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            grad_clip=GRAD_CLIP,
            micro_batch_tokens=MICRO_BATCH_TOKENS,
        )
        config.sampling(max_tokens=MAX_TOKENS)
        num_gpus = int(self.device == "cuda")
        config.learners(num_learners=0, num_cpus_per_learner=self.num_threads, num_gpus_per_learner=num_gpus)
        return config.debugging(seed=0, log_level="ERROR")


def make_demonstration_vlm(path: Path) -> Path:
    """The tiny model of the demonstration, untrained."""
    game = make_game(GAME, LEVEL)
    demonstrator, rng = Demonstrator(game, {"legal_random": 1.0}), np.random.default_rng(0)
    responses = [demonstrator.demonstrate(game.mid_game(seed), rng) for seed in range(NUM_RESPONSES)]
    return make_tiny_vlm(path, prompts=[game.prompt], responses=responses, seed=0)


def deal(workload: Workload, step: int) -> list[MultiAgentEpisode]:
    """The groups of training step `step`, played to their end; the same in every process. No picture comes twice."""
    config = workload.config
    env = GameGroupEnv(config.env_config)
    thread = EnvThread(env)
    writer = _Writer(VLMProcessor(workload.model))
    groups = []
    for number in range(workload.num_groups):
        group_id = step * workload.num_groups + number
        player = GroupPlayer(config, thread, writer, group_id, True, lambda *_: None)
        groups.append(asyncio.run(player.play()))
    thread.close()
    return [_with_random_rewards(group, step * workload.num_groups + i) for i, group in enumerate(groups)]


def response_ids(groups: Sequence[MultiAgentEpisode]) -> list[NDArray[np.int32]]:
    """Of all branches, group by group."""
    branches = (branch for group in groups for branch in group.agent_episodes.values())
    return [ids for branch in branches for ids in branch.extra_model_outputs[RESPONSE_IDS]]


class _Writer:
    """Stands where an engine's handle stands: writes tokens of the vocabulary, as many as its seed says, then ends."""

    def __init__(self, processor: VLMProcessor) -> None:
        self._processor = processor
        banned = {*processor.banned_token_ids, *processor.eos_token_ids, processor.pad_token_id}
        self._words = np.array(sorted(set(range(processor.vocab_size)) - banned), dtype=np.int32)
        self.generate = SimpleNamespace(remote=self._generate)

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        (prompt,) = prompts
        rng = np.random.default_rng(sampling.seed)
        ids = rng.choice(self._words, size=rng.integers(MIN_TOKENS, MAX_TOKENS + 1))
        ids[-1] = self._processor.eos_token_ids[0]
        digests = tuple(self._processor.image_digest(image) for image in prompt.images)
        logprobs = np.full(len(ids), -np.log(len(self._words)), dtype=np.float32)
        return [Completion("", self._processor.encode(prompt), ids, logprobs, "stop", 0, image_digests=digests)]


def _with_random_rewards(group: MultiAgentEpisode, seed: int) -> MultiAgentEpisode:
    """+1 or -1 by branch: no answer names a move, and equal rewards would leave nothing to learn."""
    rng = np.random.default_rng(seed)
    for branch in group.agent_episodes.values():
        branch.set_rewards(new_data=float(rng.choice([1.0, -1.0])), at_indices=-1)
    return group
