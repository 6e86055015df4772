"""What the transports take at the engine's end, and what the engine is built with: the parts that need no vLLM."""

import asyncio
import importlib.util
import re

import pytest
import torch

from vlmgym_policies.engine import OfferedWeights, make_engine
from vlmgym_policies.engines._vllm_handle import merge_handles, plain_handle, rebuild_arguments
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_transport import _apart, make_transport

NAMES = WeightNames("tiny", {"a": torch.Size([2])}, {})


def offered(transport, shape=(2,)):
    return OfferedWeights(transport, None, {"names": ["a"], "dtype_names": ["float32"], "shapes": [list(shape)]}, 0)


def accept(transport, weights):
    return asyncio.run(make_transport(transport, NAMES, torch.bfloat16).accept(weights))


def test_shared_memory_takes_tensors_and_casts_them():
    accepted = accept("shared_memory", {"a": torch.zeros(2)})
    assert accepted["a"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="takes tensors or a model directory, got weights that are offered by nccl"):
        accept("shared_memory", offered("nccl"))


@pytest.mark.parametrize("transport", ["nccl", "ipc"])
def test_others_take_what_a_trainer_offers_by_them(transport):
    other = "ipc" if transport == "nccl" else "nccl"
    assert accept(transport, offered(transport)) == offered(transport)
    takes = f"an engine with transport {transport} takes weights that a trainer offers by {transport}, got "
    for weights, got in [
        ({"a": torch.zeros(2)}, "tensors"),
        ("a/path", "a model directory"),
        (offered(other), f"ones that are offered by {other}"),
    ]:
        with pytest.raises(ValueError, match=re.escape(takes + got)):
            accept(transport, weights)
    with pytest.raises(ValueError, match=re.escape("a must have shape (2,), got (3,)")):
        accept(transport, offered(transport, (3,)))


def test_a_handle_is_plain_on_its_way_and_becomes_what_it_was():
    given = (
        *(torch.Tensor, torch.Size([2, 3]), (3, 1), 0, torch.storage.TypedStorage, torch.bfloat16),
        *(0, b"memory", 12, 512, False, b"counter", 7, b"event", True),
    )
    plain = plain_handle(given)
    assert {type(value) for value in plain} == {type(None), list, int, str, bytes, bool}
    assert rebuild_arguments(plain) == given


def test_handles_of_learners_come_together_by_gpu():
    assert merge_handles([[{"A": [1]}, {"A": [2]}], [{"B": [3]}, {"B": [4]}]]) == [
        {"A": [1], "B": [3]},
        {"A": [2], "B": [4]},
    ]
    with pytest.raises(ValueError):
        merge_handles([[{"A": [1]}], [{"B": [3]}, {"B": [4]}]])


def test_tensors_that_share_memory_are_parted():
    whole = torch.arange(4.0)
    apart = _apart({"a": whole, "b": whole, "c": whole[1:]})
    assert len({tensor.untyped_storage().data_ptr() for tensor in apart.values()}) == 3
    assert apart["c"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"transport": "pigeon"}, "transport must be one of ipc, nccl, shared_memory, got 'pigeon'"),
        ({"in_flight": "land"}, "in_flight must be one of finish, redo, got 'land'"),
    ],
)
def test_unknown_options_are_refused_before_vllm_starts(option, message, make_model, monkeypatch):
    monkeypatch.setattr("vlmgym_policies.engines.vllm.missing_extra", lambda type: None)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_engine("vllm", path=str(make_model(0)), **option)


def test_a_missing_vllm_is_named_with_what_to_install(make_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install vlmgym[vllm], without a GPU")):
        make_engine("vllm", path=str(make_model(0)))
