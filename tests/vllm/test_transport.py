"""What is pushed into vLLM, and how a prompt is handed to it: the parts that need no vLLM."""

import asyncio
import importlib.util
import re

import numpy as np
import pytest
import torch

from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.engines._vllm_gate import Gate
from vlmgym_policies.engines._vllm_request import collapse, sampling_params
from vlmgym_policies.engines._vllm_transport import WeightNames, _apart, checksum
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


def test_a_checksum_changes_with_a_bit_and_a_name_but_not_with_the_order():
    one, two = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), torch.tensor(1.0)
    total = checksum({"a": one, "b": two})
    assert total == checksum({"b": two, "a": one})
    changed = one.clone()
    changed[1, 2] += 1
    assert len({total, checksum({"a": changed, "b": two}), checksum({"a": two, "b": one})}) == 3


def test_tensors_that_share_memory_are_parted():
    whole = torch.arange(4.0)
    apart = _apart({"a": whole, "b": whole, "c": whole[1:]})
    assert len({tensor.untyped_storage().data_ptr() for tensor in apart.values()}) == 3
    assert apart["c"].tolist() == [1.0, 2.0, 3.0]


def test_one_placeholder_per_picture_is_left():
    assert collapse(np.array([1, 9, 9, 9, 2, 9, 3]), 9, 2) == [1, 9, 2, 9, 3]
    assert collapse(np.array([9, 9]), 9, 1) == [9]
    with pytest.raises(ValueError, match="must keep 2 images apart, got 1 runs"):
        collapse(np.array([1, 9, 9, 9, 2]), 9, 2)


def test_a_gate_closes_when_those_inside_have_left_and_holds_those_who_come():
    async def run():
        gate, events, leave = Gate(), [], asyncio.Event()

        async def visit(name):
            async with gate.passed():
                events.append(f"{name} in")
                await leave.wait()
                events.append(f"{name} out")

        first = asyncio.ensure_future(visit("first"))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(gate.close())
        second = asyncio.ensure_future(visit("second"))
        await asyncio.sleep(0.01)
        assert not closing.done()
        leave.set()
        await closing
        await first
        events.append("closed")
        await asyncio.sleep(0.01)
        gate.open()
        await second
        return events

    assert asyncio.run(run()) == ["first in", "first out", "closed", "second in", "second out"]


@pytest.mark.parametrize("temperature", [0.001, 3.0])
def test_temperatures_that_vllm_would_change_are_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be 0 or in 0.01..2.0 for vLLM, got {temperature}"):
        sampling_params(Sampling(temperature=temperature), 0, None)


def test_a_missing_vllm_is_named_with_what_to_install(make_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install vlmgym[vllm], without a GPU")):
        make_engine("vllm", path=str(make_model(0)))
