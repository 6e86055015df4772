"""How groups become training batches: advantages, one record per decision, micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns

from vlmgym.grpo.advantages import group_relative_advantages
from vlmgym_policies.processing import VLMProcessor

SEQUENCES = "sequences"
PROMPT_IDS = "prompt_ids"
RESPONSE_IDS = "response_ids"
RESPONSE_LOGPROBS = "response_logprobs"
WEIGHTS_VERSION = "weights_version"
IMAGE_DIGESTS = "image_digests"
NUM_CUT_TURNS = "num_cut_turns"


class TrainSequence(NamedTuple):
    """One decision to learn from: what the engine saw and sampled, never re-made from text.

    prompt_ids int32 [P], response_ids int32 [R]; old_logprobs float32 [R] of the sampler; weights float32 [R], how much
    each response token counts; advantage of the whole response; images, PNG files in prompt order; image_digests, what
    the sampler made of each of them, empty where it cannot tell.
    """

    prompt_ids: NDArray[np.int32]
    response_ids: NDArray[np.int32]
    old_logprobs: NDArray[np.float32]
    weights: NDArray[np.float32]
    advantage: float
    images: tuple[bytes, ...]
    image_digests: tuple[bytes, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


class MicroBatch(NamedTuple):
    """One forward pass. `inputs` go to the module; the rest is float32 [B, T] over the last T positions, or [B, 1]."""

    inputs: dict[str, Any]
    old_logprobs: torch.Tensor
    weights: torch.Tensor
    advantages: torch.Tensor


class GroupAdvantages(ConnectorV2):
    """Learner connector: adds `Columns.ADVANTAGES`, one number per branch. One multi-agent episode is one group."""

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, metrics: Any = None, **kwargs: Any) -> Any:
        for group in episodes:
            branches = list(group.agent_episodes.values())
            returns = np.array([branch.get_return() for branch in branches], dtype=np.float32)
            for branch, advantage in zip(branches, group_relative_advantages(returns), strict=True):
                self.add_batch_item(batch, Columns.ADVANTAGES, float(advantage), branch)
        return batch


class SequencesFromEpisodes(ConnectorV2):
    """Learner connector: replaces `Columns.ADVANTAGES` by one `TrainSequence` per decision of every branch."""

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        advantages = batch.pop(Columns.ADVANTAGES)
        for branch in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            (advantage,) = advantages[(branch.multi_agent_episode_id, branch.agent_id, branch.module_id)]
            outputs = branch.extra_model_outputs
            for turn, prompt in enumerate(branch.get_observations(slice(0, len(branch)))):
                response_ids = outputs[RESPONSE_IDS][turn]
                record = TrainSequence(
                    prompt_ids=outputs[PROMPT_IDS][turn],
                    response_ids=response_ids,
                    old_logprobs=outputs[RESPONSE_LOGPROBS][turn],
                    weights=np.ones(len(response_ids), dtype=np.float32),
                    advantage=advantage,
                    images=prompt.without_first_turns(outputs[NUM_CUT_TURNS][turn]).images,
                    image_digests=outputs[IMAGE_DIGESTS][turn],
                )
                self.add_batch_item(batch, SEQUENCES, record, branch)
        return batch


class SequencesToObjectArrays(ConnectorV2):
    """Learner connector: lists of records become object arrays, which RLlib can slice and leaves otherwise alone."""

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        for columns in batch.values():
            columns[SEQUENCES] = object_array(columns[SEQUENCES])
        return batch


def without_mismatch(record: TrainSequence, processor: VLMProcessor) -> TrainSequence:
    """The record itself where this processor sees its images as the sampler did; else one that counts for nothing.

    What counts for nothing keeps its text, so that every learner still has its sequences, and no image, since the
    number of its tokens may be wrong, too.
    """
    seen = tuple(processor.image_digest(image) for image in record.images)
    if not record.image_digests or record.image_digests == seen:
        return record
    text = record.prompt_ids[record.prompt_ids != processor.image_token_id]
    return record._replace(prompt_ids=text, images=(), weights=np.zeros_like(record.weights))


def object_array(records: Sequence[TrainSequence]) -> NDArray[np.object_]:
    """Object array [N] of records; numpy would otherwise take the tuples apart."""
    array = np.empty(len(records), dtype=object)
    for index, record in enumerate(records):
        array[index] = record
    return array


def plan_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of sequences per micro-batch, sorted by length so that little is padded.

    Rows x longest length stays within `max_tokens`; a sequence longer than that has a micro-batch of its own.

    >>> plan_micro_batches([3, 9, 4, 3], max_tokens=12)
    [[0, 3, 2], [1]]
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    plan: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if plan and (len(plan[-1]) + 1) * lengths[index] <= max_tokens:
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan


def collate(records: Sequence[TrainSequence], processor: VLMProcessor, device: torch.device) -> MicroBatch:
    """Pads records on the right; response values stand where their token is predicted for, zeros elsewhere."""
    token_ids = [np.concatenate([r.prompt_ids, r.response_ids]) for r in records]
    inputs = processor.collate(token_ids, [r.images for r in records], padding="right")
    width = inputs["input_ids"].shape[1]
    num_scored = width - min(len(r.prompt_ids) for r in records)
    old_logprobs, weights = (torch.zeros(len(records), num_scored) for _ in range(2))
    for row, record in enumerate(records):
        start = len(record.prompt_ids) - (width - num_scored)
        place = slice(start, start + len(record.response_ids))
        old_logprobs[row, place] = torch.tensor(record.old_logprobs)
        weights[row, place] = torch.tensor(record.weights)
    advantages = torch.tensor([[r.advantage] for r in records])
    moved = {name: value.to(device) for name, value in inputs.items()}
    return MicroBatch(
        {**moved, "num_scored": num_scored}, old_logprobs.to(device), weights.to(device), advantages.to(device)
    )
