import pytest
import torch

from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.training_inputs import TrainingInputs
from vlmgym_policies.vlm_network import vision_tower


@pytest.fixture
def inputs_of():
    """Makes what turns sequences into inputs of a processor's own model."""

    def make(processor: VLMProcessor) -> TrainingInputs:
        model = load_vlm(processor.path, torch.float32)
        return TrainingInputs(processor, model, vision_tower(model))

    return make
