"""Decides who competes in the benchmark of the learner: the platform's update, and a bare PyTorch loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from vlmgym.benchmarks.learner_stopwatch import Stopwatch
from vlmgym.benchmarks.learner_workload import BETAS, CLIP, GRAD_CLIP, KL_COEFF, LR, WEIGHT_DECAY, Workload, deal
from vlmgym.grpo.advantages import grpo
from vlmgym.grpo.batching import PROMPT_IDS, RESPONSE_IDS, RESPONSE_LOGPROBS
from vlmgym.grpo.config import POLICY_ID
from vlmgym.grpo.micro_batches import plan_micro_batches
from vlmgym_policies.processing import VLMProcessor, load_vlm


def platform(workload: Workload, num_steps: int, stopwatch: Stopwatch) -> None:
    """`GRPOLearner` in a `LearnerGroup`, as the algorithm calls it: connectors, pictures, loss, step and metrics."""
    config = workload.config
    spec = config.get_multi_rl_module_spec(spaces={POLICY_ID: (gym.spaces.Text(1), gym.spaces.Text(1))})
    learners = config.build_learner_group(rl_module_spec=spec)
    for step in range(num_steps):
        groups = deal(workload, step)
        stopwatch.start()
        (result,) = learners.update(episodes=groups, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: step})
        stopwatch.stop(padding_fraction=float(result[POLICY_ID]["padding_fraction"].peek()))


def bare(workload: Workload, num_steps: int, stopwatch: Stopwatch) -> None:
    """A loop around the Hugging Face model: forward, backward, clip and step, and all tensors ready before the clock.

    The platform's micro-batches, and the logits of responses alone; with the mask and the repeated pictures that the
    model asks for. No entropy, no metrics.
    """
    model, reference = (_load(workload) for _ in range(2))
    model.train()
    reference.requires_grad_(False)
    parameters = list(model.parameters())
    matrices = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY}
    vectors = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([matrices, vectors], lr=LR, betas=BETAS)
    processor = VLMProcessor(workload.model)
    for step in range(num_steps):
        rows = [row for group in deal(workload, step) for row in _rows(group)]
        plan = plan_micro_batches([len(row.token_ids) for row in rows], workload.config.micro_batch_tokens)
        micro_batches = [_collate([rows[i] for i in micro], processor, workload.device) for micro in plan]
        stopwatch.start()
        num_tokens = sum(micro.mask.sum() for micro in micro_batches)
        for micro in micro_batches:
            (_loss(model, reference, micro) / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        stopwatch.stop()


class _Row(NamedTuple):
    """A sequence: all its ids; of the response, its length and the sampler's log-probabilities."""

    token_ids: np.ndarray
    num_response_tokens: int
    old_logprobs: torch.Tensor
    advantage: float
    images: tuple[bytes, ...]


class _MicroBatch(NamedTuple):
    """Model inputs of some sequences and, [B, T] over the last T tokens, what the loss takes."""

    inputs: dict[str, torch.Tensor]
    old_logprobs: torch.Tensor
    mask: torch.Tensor
    advantages: torch.Tensor


def _load(workload: Workload) -> Any:
    return load_vlm(workload.model, getattr(torch, workload.dtype)).to(workload.device)


def _rows(group: MultiAgentEpisode) -> list[_Row]:
    """The sequences of a group, whose branches have one turn each."""
    branches = list(group.agent_episodes.values())
    advantages = grpo(np.array([branch.get_return() for branch in branches], dtype=np.float32))
    rows = []
    for branch, advantage in zip(branches, advantages, strict=True):
        prompt_ids, ids, logprobs = (
            branch.extra_model_outputs[name][0] for name in (PROMPT_IDS, RESPONSE_IDS, RESPONSE_LOGPROBS)
        )
        images = branch.get_observations(0).images
        token_ids = np.concatenate([prompt_ids, ids])
        rows.append(_Row(token_ids, len(ids), torch.from_numpy(logprobs), float(advantage), images))
    return rows


def _collate(rows: Sequence[_Row], processor: VLMProcessor, device: str) -> _MicroBatch:
    inputs = processor.collate([row.token_ids for row in rows], [row.images for row in rows], padding="right")
    width = inputs["input_ids"].shape[1]
    num_scored = width - min(len(row.token_ids) - row.num_response_tokens for row in rows)
    old_logprobs, mask = torch.zeros(len(rows), num_scored), torch.zeros(len(rows), num_scored)
    for number, row in enumerate(rows):
        end = len(row.token_ids) - (width - num_scored)
        old_logprobs[number, end - row.num_response_tokens : end] = row.old_logprobs
        mask[number, end - row.num_response_tokens : end] = 1
    advantages = torch.tensor([[row.advantage] for row in rows])
    moved = {name: value.to(device) for name, value in inputs.items()}
    return _MicroBatch(moved, *(value.to(device) for value in (old_logprobs, mask, advantages)))


def _loss(model: Any, reference: Any, micro: _MicroBatch) -> torch.Tensor:
    """Clipped surrogate and k3, summed over response tokens."""
    logprobs = _logprobs(model, micro)
    with torch.no_grad():
        reference_logprobs = _logprobs(reference, micro)
    ratio = torch.exp(logprobs - micro.old_logprobs)
    policy = -torch.minimum(ratio * micro.advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * micro.advantages)
    difference = reference_logprobs - logprobs
    kl = torch.exp(difference) - difference - 1
    return ((policy + KL_COEFF * kl) * micro.mask).sum()


def _logprobs(model: Any, micro: _MicroBatch) -> torch.Tensor:
    num_scored = micro.mask.shape[1]
    logits = model(**micro.inputs, use_cache=False, logits_to_keep=num_scored + 1).logits[:, :-1].float()
    targets = micro.inputs["input_ids"][:, -num_scored:, None]
    logprobs: torch.Tensor = torch.log_softmax(logits, dim=-1).gather(-1, targets).squeeze(-1)
    return logprobs
