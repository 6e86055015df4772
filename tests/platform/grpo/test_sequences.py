import numpy as np
import pytest
import torch

from vlmgym.grpo.batching import collate
from vlmgym.grpo.sequences import TrainSequence, merge_turns, response_weight, without_mismatch
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import make_prompt


def sequence(prompt, response, advantage=1.0, images=(), digests=()):
    num = len(response)
    return TrainSequence(
        prompt_ids=np.array(prompt, dtype=np.int32),
        response_ids=np.array(response, dtype=np.int32),
        old_logprobs=-np.arange(1, num + 1, dtype=np.float32),
        weights=np.full(num, 0.5, dtype=np.float32),
        advantages=np.full(num, advantage, dtype=np.float32),
        turns=np.zeros(num, dtype=np.int32),
        denominator=2.0,
        images=images,
        image_digests=digests,
    )


def test_turns_that_continue_each_other_become_one_sequence():
    """Prompts 1 2 | 1 2 [3 4] 5 | 1 2 [3 4] 5 [6] 7 8: each begins with all that stood before, then something new."""
    turns = [
        sequence([1, 2], [3, 4], 1.0, (b"x",), (b"dx",)),
        sequence([1, 2, 3, 4, 5], [6], 2.0, (b"x", b"y"), (b"dx", b"dy")),
        sequence([1, 2, 3, 4, 5, 6, 7, 8], [9, 9], 3.0, (b"x", b"y", b"z"), (b"dx", b"dy", b"dz")),
    ]
    (merged,) = merge_turns(turns)
    assert merged.prompt_ids.tolist() == [1, 2] and merged.response_ids.tolist() == [3, 4, 5, 6, 7, 8, 9, 9]
    assert merged.old_logprobs.tolist() == [-1, -2, 0, -1, 0, 0, -1, -2]
    assert merged.weights.tolist() == [0.5, 0.5, 0, 0.5, 0, 0, 0.5, 0.5]
    assert merged.advantages.tolist() == [1, 1, 0, 2, 0, 0, 3, 3]
    assert merged.turns.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert merged.denominator == 6.0 and merged.num_tokens == 10
    assert merged.images == (b"x", b"y", b"z") and merged.image_digests == (b"dx", b"dy", b"dz")


@pytest.mark.parametrize(
    "later",
    [
        sequence([1, 2, 3, 9, 5], [6]),  # a response that was spelled otherwise
        sequence([1, 2], [6]),  # no history
        sequence([1, 2, 3, 4], [6]),  # nothing in between
        sequence([3, 4, 5], [6]),  # the first turn left out
        sequence([1, 2, 3, 4, 5], [6], images=(b"y",)),  # another picture of as many tokens
        sequence([1, 2, 3, 4, 5], [6], images=(b"x",), digests=(b"e",)),  # seen otherwise
    ],
    ids=["spelling", "no history", "nothing new", "window", "picture", "digest"],
)
def test_turns_that_do_not_stay_apart(later):
    first = sequence([1, 2], [3, 4], images=(b"x",) if later.images else (), digests=(b"d",) if later.images else ())
    assert merge_turns([first, later]) == [first, later]


def test_a_chain_goes_on_behind_a_break():
    turns = [sequence([1], [2]), sequence([7], [8]), sequence([7, 8, 9], [5])]
    merged = merge_turns(turns)
    assert [len(s.response_ids) for s in merged] == [1, 3] and merged[1].turns.tolist() == [0, 1, 1]


@pytest.mark.parametrize("average_over", ["tokens", "responses", "max_tokens"])
def test_losses_are_averaged_by_hand(average_over):
    """Responses of 2 and 6 tokens whose terms are 1 and 3, at most 10 tokens: (2 + 18) / 8, (1 + 3) / 2, 20 / 20."""
    weighed = [(num, term, *response_weight(num, average_over, 10)) for num, term in ((2, 1.0), (6, 3.0))]
    mean = sum(n * term * w for n, term, w, _ in weighed) / sum(denominator for *_, denominator in weighed)
    assert mean == pytest.approx({"tokens": 2.5, "responses": 2.0, "max_tokens": 1.0}[average_over])


def test_a_sequence_whose_picture_the_sampler_saw_otherwise_counts_for_nothing(make_model, game, inputs_of):
    processor = VLMProcessor(str(make_model(0)))
    prompt, other = (make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(2))
    right = sequence(processor.encode(prompt), [8, 9], 1.0, prompt.images)
    assert without_mismatch(right, processor) is right  # the sampler could not tell
    digest = processor.image_digest(prompt.images[0])
    assert digest == VLMProcessor(str(make_model(1))).image_digest(prompt.images[0])
    right = right._replace(image_digests=(digest,))
    assert without_mismatch(right, processor) is right
    wrong = right._replace(
        image_digests=(processor.image_digest(other.images[0]),),
        response_ids=np.array([8, processor.image_token_id], dtype=np.int32),  # as between two turns
    )
    left = without_mismatch(wrong, processor)
    assert left.images == () and not left.weights.any() and left.denominator == 0.0
    assert processor.image_token_id not in left.token_ids and left.response_ids.tolist() == [8]
    batch = collate([right, left], inputs_of(processor), torch.device("cpu"))
    assert batch.weights.sum() == 1.0  # and the batch still fits the model's inputs: one picture for one sequence
    assert len(batch.inputs["image_grid_thw"]) == 1
