"""A model takes its own weights only, and says so where it has got some of them."""

import re

import pytest
import torch

from vlmgym_policies.engines._hf_weights import Weights
from vlmgym_policies.processing import load_vlm


@pytest.fixture
def model(make_model):
    return load_vlm(str(make_model(0)), torch.float32)


@pytest.fixture(scope="module")
def other(make_model):
    return load_vlm(str(make_model(1)), torch.float32).state_dict()


def test_weights_are_replaced(model, other):
    weights = Weights(model, torch.device("cpu"))
    weights.check(other)
    weights.replace(other)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other[name]) and tensor.data_ptr() != other[name].data_ptr()


def test_names_and_shapes_are_those_of_the_model(model, other):
    weights, name = Weights(model, torch.device("cpu")), "lm_head.weight"
    shape = tuple(other[name].shape)
    for wrong, message in (
        ({n: t for n, t in other.items() if n != name}, f"the weights lack 1 tensors, first {name}"),
        (other | {"y": other[name], "x": other[name]}, "the weights have unknown 2 tensors, first x"),
        (other | {name: other[name][1:]}, f"weights {name} must have shape {shape}, got {(shape[0] - 1, shape[1])}"),
        (other | {name: None}, f"weights {name} cannot be read"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            weights.check(wrong)


def test_an_error_half_way_is_no_value_error(model, other):
    class Torn(dict):
        def __getitem__(self, name):
            if name == list(self)[len(self) // 2]:
                raise ValueError("gone")
            return super().__getitem__(name)

    with pytest.raises(RuntimeError, match="only some weights came: gone"):
        Weights(model, torch.device("cpu")).replace(Torn(other))


@pytest.mark.gpu
def test_a_sleeping_model_leaves_the_gpu_and_comes_back(model, other):
    weights = Weights(model.to("cuda"), torch.device("cuda"))
    awake_bytes = torch.cuda.memory_allocated()
    weights.sleep()
    assert torch.cuda.memory_allocated() < awake_bytes
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    weights.replace(other)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
