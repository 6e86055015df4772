from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_pair import LearnerPair
from small_learners import Batch, draw

from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.training_inputs import TrainingInputs
from vlmgym_policies.vlm_network import vision_tower

NUM_UPDATES = 5


@pytest.fixture
def inputs_of():
    """Makes what turns sequences into inputs of a processor's own model."""

    def make(processor: VLMProcessor) -> TrainingInputs:
        model = load_vlm(processor.path, torch.float32)
        return TrainingInputs(processor, model, vision_tower(model))

    return make


@pytest.fixture(scope="module")
def pair() -> Iterator[LearnerPair]:
    learners = LearnerPair()
    yield learners
    learners.close()


@pytest.fixture(scope="module")
def shares(qwen2_5_vl: Path, game: Any) -> list[list[Batch]]:
    """Groups of 5 and of 3, whose responses have other lengths in each update."""
    return [
        [draw(qwen2_5_vl, game, 2 * step, [3, 30, 7, 1, 12 + step]), draw(qwen2_5_vl, game, 2 * step + 1, [9, 2, 44])]
        for step in range(NUM_UPDATES)
    ]
