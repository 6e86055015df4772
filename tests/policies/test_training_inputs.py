"""What is left out of a batch - the mask, repeated pictures, the counting of positions - changes nothing."""

import numpy as np
import pytest
import torch

from vlmgym_policies.engine import Prompt
from vlmgym_policies.pictures import IMAGE_SOURCES, can_see_each_once, seeing_each_once
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.training_inputs import TrainingInputs
from vlmgym_policies.vlm_network import vision_tower


@pytest.fixture(scope="module")
def model(path):
    return load_vlm(path, torch.float32).train()


@pytest.fixture(scope="module")
def processor(path):
    return VLMProcessor(path)


@pytest.fixture(scope="module")
def sequences(processor, prompts: list[Prompt]):
    """Siblings of the picture's prompt, the others once; responses of 2..6 tokens."""
    shown = [prompts[i] for i in (0, 2, 0, 1, 3, 0, 2)]
    rng = np.random.default_rng(0)
    responses = [rng.integers(5, 200, size=2 + i % 5).astype(np.int32) for i in range(len(shown))]
    token_ids = [np.concatenate([processor.encode(p), ids]) for p, ids in zip(shown, responses, strict=True)]
    return token_ids, [prompt.images for prompt in shown]


def scores_and_gradients(model, inputs, lengths):
    """Log-probabilities of every token after the first of each row, and the gradient of their sum by parameter."""
    model.zero_grad()
    logprobs = model(**inputs, use_cache=False).logits.log_softmax(-1)
    rows = [
        logprobs[row, : length - 1].gather(-1, inputs["input_ids"][row, 1:length, None]).squeeze(-1)
        for row, length in enumerate(lengths)
    ]
    scores = torch.cat(rows)
    scores.sum().backward()
    return scores.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_scores_and_gradients_are_those_of_the_plain_batch(model, processor, sequences) -> None:
    token_ids, images = sequences
    lengths = [len(ids) for ids in token_ids]
    expected = scores_and_gradients(model, processor.collate(token_ids, images, padding="right"), lengths)
    inputs = TrainingInputs(processor, model, vision_tower(model))(token_ids, images)
    assert "attention_mask" not in inputs
    with seeing_each_once(vision_tower(model), inputs) as seen:
        scores, gradients = scores_and_gradients(model, seen, lengths)
    torch.testing.assert_close(scores, expected[0], atol=1e-4, rtol=1e-4)
    assert gradients.keys() == expected[1].keys()
    for name, gradient in gradients.items():
        scale = float(expected[1][name].abs().max())
        torch.testing.assert_close(gradient, expected[1][name], atol=1e-4 * max(1.0, scale), rtol=1e-3, msg=name)


def test_the_tower_sees_each_picture_once(model, processor, sequences) -> None:
    tower = vision_tower(model)
    inputs = TrainingInputs(processor, model, tower)(*sequences)
    num_pictures = sum(map(len, sequences[1]))
    assert num_pictures == 8 and (IMAGE_SOURCES in inputs) == can_see_each_once(tower)
    given = []
    hook = tower.register_forward_pre_hook(lambda _, args, kwargs: given.append(args), with_kwargs=True)
    with seeing_each_once(tower, inputs) as seen, torch.no_grad():
        model(**seen, use_cache=False)
    hook.remove()
    if can_see_each_once(tower):
        assert len(inputs["image_grid_thw"]) == 4 and len(seen["image_grid_thw"]) == num_pictures
        ((patches,),) = given
        assert len(patches) == int(inputs["image_grid_thw"].prod(-1).sum())
    assert not tower._forward_hooks and not tower._forward_pre_hooks


def test_a_batch_without_pictures(model, processor) -> None:
    ids = [np.array(row, dtype=np.int32) for row in ([5, 6, 7, 8], [8, 5, 6])]
    inputs = TrainingInputs(processor, model, vision_tower(model))(ids, [(), ()])
    plain = processor.collate(ids, [(), ()], "right")
    expected, _ = scores_and_gradients(model, plain, [4, 3])
    with seeing_each_once(vision_tower(model), inputs) as seen:
        scores, _ = scores_and_gradients(model, seen, [4, 3])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
