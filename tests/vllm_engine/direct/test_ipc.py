"""vLLM's workers open the memory of learners on their GPU: what they say then is what Hugging Face says."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vlmgym_policies.engines._vllm_sender import Receivers, make_sender, merge

pytestmark = pytest.mark.vllm

ONE = Receivers(num_engines=1, workers_per_engine=1, members=0)


def offered(sender, named, to=ONE):
    (offer,) = merge([sender.offer(named, to, 0)])
    return offer


@pytest.mark.parametrize("engine", ["ipc"], indirect=True)
def test_ipc_pushes_are_answered_as_hf_does(cuda_ipc, engine, path, draw):
    sender = make_sender("ipc", path, "float32", 20.0)
    for seed in (0, 1):
        named = draw(seed)
        engine.push(sender, offered(sender, named))
        engine.assert_says_what_hf_does(named)
    assert_released(cuda_ipc, 2 * len(named))


@pytest.mark.parametrize("engine", ["ipc"], indirect=True)
def test_ipc_offers_with_a_wrong_sum_or_of_another_gpu_are_refused(cuda_ipc, engine, path, draw):
    sender = make_sender("ipc", path, "float32", 20.0)
    named = draw(2)
    offer = offered(sender, named)
    with pytest.raises(ValueError, match="weights must have checksum 5"):
        engine.load(replace(offer, checksum=5))
    elsewhere = [{"GPU-9": handles["GPU-0"]} for handles in offer.update["ipc_handles"]]
    with pytest.raises(ValueError, match="IPC handle not found for GPU UUID GPU-0"):
        engine.load(replace(offer, update={**offer.update, "ipc_handles": elsewhere}))
    engine.load(offer)
    engine.assert_says_what_hf_does(named)
    sender.release()
    assert_released(cuda_ipc, len(named))


def test_memory_that_no_engine_opened_is_released_too(cuda_ipc, path, draw):
    sender = make_sender("ipc", path, "float32", 20.0)
    named = draw(0)
    sender.offer(named, ONE, 0)
    sender.offer(named, ONE, 0)
    sender.release()
    assert_released(cuda_ipc, 2 * len(named))


def assert_released(counters, num_exported):
    """Each counter is 0: PyTorch would keep the memory above that, and below, too."""
    assert list(counters.values())[1:] == [0] * num_exported


def test_ipc_offers_hold_copies_of_all_learners_by_gpu_in_plain_values(cuda_ipc, path, draw, monkeypatch):
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    named = draw(0)
    parts, senders = [], []
    for rank in range(2):
        properties = SimpleNamespace(uuid=f"GPU-{rank}")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, found=properties: found)
        senders.append(make_sender("ipc", path, "float32", 20.0))
        parts.append(senders[-1].offer(named, Receivers(2, 1, 0), rank))
    offers = merge(parts)
    assert len(offers) == 2
    assert all(list(handles) == ["GPU-0", "GPU-1"] for offer in offers for handles in offer.update["ipc_handles"])
    update = {**offers[0].update, "checksum": offers[0].checksum}
    assert MsgpackDecoder(dict).decode(MsgpackEncoder().encode(update)) == update
    own = {tensor.data_ptr() for tensor in named.values()}
    assert not own & {exported.tensor.data_ptr() for exported in senders[0]._exported}


def test_learners_with_different_weights_are_an_error(cuda_ipc, path, draw):
    parts = [make_sender("ipc", path, "float32", 20.0).offer(draw(seed), ONE, seed) for seed in range(2)]
    with pytest.raises(RuntimeError, match="learners must have the same weights, got checksums"):
        merge(parts)


def test_tensors_do_not_go_by_object_store(path):
    with pytest.raises(ValueError, match="transport must be one of ipc, nccl, got 'object_store'"):
        make_sender("object_store", path, "float32", 20.0)
