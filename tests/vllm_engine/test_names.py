"""What a complete set of weights is, and what vLLM calls its tensors."""

import re

import pytest
import torch

from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.processing import load_vlm

EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def weights(make_model):
    return load_vlm(str(make_model(0)), torch.float32).state_dict()


@pytest.fixture(scope="module")
def names(make_model):
    return WeightNames.of(str(make_model(0)))


def test_a_set_of_weights_has_the_names_and_shapes_of_the_model(names, weights):
    assert names.model_type == "qwen3_vl"
    assert names.shapes == {name: tensor.shape for name, tensor in weights.items()}
    assert names.tied == {"lm_head.weight": EMBEDDING}


def test_tied_tensors_are_pushed_whether_given_or_not(names, weights):
    pushed = names.prepare({k: v for k, v in weights.items() if k != "lm_head.weight"}, torch.bfloat16)
    assert pushed.keys() == weights.keys()
    assert {tensor.dtype for tensor in pushed.values()} == {torch.bfloat16}
    assert torch.equal(pushed["lm_head.weight"], weights[EMBEDDING].bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonsense": torch.zeros(1)}, "weights must be those of a qwen3_vl model, got unknown name nonsense"),
        ({EMBEDDING: torch.zeros(2, 3)}, f"{EMBEDDING} must have shape (301, 64), got (2, 3)"),
    ],
)
def test_other_names_and_shapes_are_refused(names, weights, change, message):
    message = message.replace("301", str(len(weights[EMBEDDING])))
    with pytest.raises(ValueError, match=re.escape(message)):
        names.prepare({**weights, **change}, torch.float32)


def test_an_incomplete_set_is_refused(names, weights):
    part = {name: tensor for name, tensor in weights.items() if name != EMBEDDING and name != "lm_head.weight"}
    with pytest.raises(ValueError, match=r"weights must be complete, .*\.weight is missing"):
        names.prepare(part, torch.float32)


@pytest.mark.parametrize(
    ("model_type", "name", "loaded"),
    [
        ("llava", "model.vision_tower.post_layernorm.bias", "vision_tower.vision_model.post_layernorm.bias"),
        ("llava", "model.multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_1.bias"),
        ("qwen2_5_vl", "model.visual.patch_embed.proj.weight", "model.visual.patch_embed.proj.weight"),
    ],
)
def test_names_that_vllm_loads(model_type, name, loaded):
    assert WeightNames(model_type, {}, {}).loaded_name(name) == loaded


def test_what_is_offered_has_the_names_and_shapes_of_what_is_pushed(names, weights):
    shapes = {name: list(tensor.shape) for name, tensor in names.prepare(weights, torch.float32).items()}
    names.check(shapes)
    with pytest.raises(ValueError, match=re.escape(f"weights must be complete, {EMBEDDING} is missing")):
        names.check({name: shape for name, shape in shapes.items() if name != EMBEDDING})
    with pytest.raises(ValueError, match="got unknown name nonsense"):
        names.check({**shapes, "nonsense": [1]})
    with pytest.raises(ValueError, match=re.escape(f"{EMBEDDING} must have shape")):
        names.check({**shapes, EMBEDDING: [1, 64]})


def test_a_tied_tensor_is_cast_once(names, weights):
    pushed = names.prepare(weights | {"lm_head.weight": weights[EMBEDDING]}, torch.float32)
    part = names.prepare({k: v for k, v in weights.items() if k != "lm_head.weight"}, torch.bfloat16)
    assert pushed[EMBEDDING].data_ptr() == weights[EMBEDDING].data_ptr()
    assert part["lm_head.weight"].data_ptr() == part[EMBEDDING].data_ptr()
