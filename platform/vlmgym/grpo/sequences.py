"""What a learner is given: decisions as sequences of tokens, the turns of a branch in one where they allow it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmgym.grpo.variants import AverageOver
from vlmgym_policies.processing import VLMProcessor


class TrainSequence(NamedTuple):
    """One decision or several to learn from: what the engine saw and sampled, never re-made from text.

    prompt_ids int32 [P], what stands before the first sampled token. Of what follows, [R] each: response_ids int32, in
    a sequence of several turns also what stands between their responses; old_logprobs float32, the sampler's; weights
    float32, how much each token counts, 0 where it was not sampled; advantages float32; turns int32, which response it
    belongs to, from 0. denominator: what the sequence adds to the number that the batch's loss is divided by. images,
    PNG files in order; image_digests, what the sampler made of each of them, empty where it cannot tell. game: its
    number in the mixture.
    """

    prompt_ids: NDArray[np.int32]
    response_ids: NDArray[np.int32]
    old_logprobs: NDArray[np.float32]
    weights: NDArray[np.float32]
    advantages: NDArray[np.float32]
    turns: NDArray[np.int32]
    denominator: float
    images: tuple[bytes, ...]
    image_digests: tuple[bytes, ...] = ()
    game: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def token_ids(self) -> NDArray[np.int32]:
        return np.concatenate([self.prompt_ids, self.response_ids])


def response_weight(num_tokens: int, average_over: AverageOver, max_tokens: int) -> tuple[float, float]:
    """What each token of a response weighs, and what the response adds to the denominator of the loss.

    The loss of a batch is sum(weight x term) / sum(denominators), over all tokens on all learners. "tokens" weighs them
    alike (DAPO, arXiv 2503.14476, equation 8; G1). "responses" gives each response the mean over its own (GRPO, arXiv
    2402.03300, equation 3). "max_tokens" divides by the longest a response may be (Dr. GRPO, arXiv 2503.20783).

    >>> response_weight(4, "tokens", 8), response_weight(4, "responses", 8), response_weight(4, "max_tokens", 8)
    ((1.0, 4.0), (0.25, 1.0), (1.0, 8.0))
    """
    match average_over:
        case "tokens":
            return 1.0, float(num_tokens)
        case "responses":
            return 1.0 / num_tokens, 1.0
        case "max_tokens":
            return 1.0, float(max_tokens)


def merge_turns(decisions: Iterable[TrainSequence]) -> list[TrainSequence]:
    """The decisions of a branch, in order, with as few sequences as scores them all exactly as they were sampled.

    A decision joins the sequence before it where its prompt is all of that sequence, token by token and picture by
    picture, and more: under causal attention its tokens then score the same in either. Loss and gradient do not change;
    the shared part is computed once.
    """
    merged: list[TrainSequence] = []
    for decision in decisions:
        if merged and _continues(merged[-1], decision):
            merged[-1] = _joined(merged[-1], decision)
        else:
            merged.append(decision)
    return merged


def without_mismatch(record: TrainSequence, processor: VLMProcessor) -> TrainSequence:
    """The record itself where this processor sees its images as the sampler did; else one that counts for nothing.

    What counts for nothing keeps its text, so that every learner still has its sequences, and no image, since the
    number of its tokens may be wrong, too.
    """
    seen = tuple(processor.image_digest(image) for image in record.images)
    if not record.image_digests or record.image_digests == seen:
        return record
    is_text = record.response_ids != processor.image_token_id
    return TrainSequence(
        prompt_ids=record.prompt_ids[record.prompt_ids != processor.image_token_id],
        response_ids=record.response_ids[is_text],
        old_logprobs=record.old_logprobs[is_text],
        weights=np.zeros_like(record.weights[is_text]),
        advantages=record.advantages[is_text],
        turns=record.turns[is_text],
        denominator=0.0,
        images=(),
        game=record.game,
    )


def _continues(earlier: TrainSequence, later: TrainSequence) -> bool:
    known, num_images = earlier.token_ids, len(earlier.images)
    return (
        len(later.prompt_ids) > len(known)
        and np.array_equal(later.prompt_ids[: len(known)], known)
        and later.images[:num_images] == earlier.images
        and later.image_digests[:num_images] == earlier.image_digests
    )


def _joined(earlier: TrainSequence, later: TrainSequence) -> TrainSequence:
    between = later.prompt_ids[earlier.num_tokens :]
    nothing = np.zeros(len(between), dtype=np.float32)
    turn = earlier.turns[-1] + 1
    return TrainSequence(
        prompt_ids=earlier.prompt_ids,
        response_ids=np.concatenate([earlier.response_ids, between, later.response_ids]),
        old_logprobs=np.concatenate([earlier.old_logprobs, nothing, later.old_logprobs]),
        weights=np.concatenate([earlier.weights, nothing, later.weights]),
        advantages=np.concatenate([earlier.advantages, nothing, later.advantages]),
        turns=np.concatenate([earlier.turns, np.full(len(between) + len(later.turns), turn, dtype=np.int32)]),
        denominator=earlier.denominator + later.denominator,
        images=later.images,
        image_digests=later.image_digests,
        game=later.game,
    )
