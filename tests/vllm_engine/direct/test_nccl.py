"""A learner broadcasts to vLLM's workers: what they say then is what Hugging Face says, and nobody waits for ever."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_nccl import Connection
from vlmgym_policies.engines._vllm_sender import Receivers, make_sender, merge

pytestmark = pytest.mark.vllm

ONE = Receivers(num_engines=1, workers_per_engine=1, members=0)


def offered(sender, named, to=ONE):
    (offer,) = merge([sender.offer(named, to, 0)])
    return offer


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_nccl_pushes_are_answered_as_hf_does(nccl, engine, path, draw):
    sender = make_sender("nccl", path, "float32", 20.0)
    handshakes = []
    for seed, members in enumerate((0, 0, 1)):
        named = draw(seed)
        offer = offered(sender, named, Receivers(1, 1, members))
        handshakes.append(offer.init is not None)
        engine.push(sender, offer)
        engine.assert_says_what_hf_does(named)
    assert handshakes == [True, False, True]
    assert engine.worker.weight_transfer_engine.model_update_group.num_broadcasts > 3  # in parts of 128 KiB
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_wrong_sum_and_a_missing_parameter_are_refused_and_the_next_push_is_whole(nccl, engine, path, draw):
    sender = make_sender("nccl", path, "float32", 20.0)
    named = draw(3)
    offer = offered(sender, named)
    with pytest.raises(ValueError, match=f"weights must have checksum 5, got {offer.checksum}"):
        engine.push(sender, replace(offer, checksum=5))
    sender._names.shapes.pop("model.language_model.norm.weight")
    offer = offered(sender, {k: v for k, v in named.items() if k != "model.language_model.norm.weight"})
    assert offer.init is None
    with pytest.raises(ValueError, match=r"weights lack 1 of the model's parameters, first language_model.model.norm"):
        engine.push(sender, offer, checked=False)
    with pytest.raises(ValueError, match=r"complete, model.language_model.norm.weight is missing"):
        engine.load(offer)
    sender._names = WeightNames.of(path)
    engine.push(sender, offered(sender, named))
    engine.assert_says_what_hf_does(named)
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_worker_that_cannot_load_still_takes_the_whole_broadcast(nccl, engine, path, draw, monkeypatch):
    sender = make_sender("nccl", path, "float32", 20.0)
    named, model = draw(4), engine.worker.weight_transfer_engine.model

    def load_weights(weights):
        raise MemoryError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(type(model), "load_weights", lambda self, weights: load_weights(weights))
        with pytest.raises(MemoryError, match="out of memory"):
            engine.push(sender, offered(sender, named))
    offer = offered(sender, named)
    assert offer.init is None
    engine.push(sender, offer)
    engine.assert_says_what_hf_does(named)
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_push_torn_halfway_is_followed_by_a_new_connection_and_a_whole_one(nccl, engine, path, draw):
    sender = make_sender("nccl", path, "float32", 3.0)
    named = draw(5)
    engine.push(sender, offered(sender, named))
    receiver, broadcast = engine.worker.weight_transfer_engine, nccl.broadcast
    num_before = receiver.model_update_group.num_broadcasts

    def torn(tensor, src, stream=None):
        if receiver.model_update_group.num_broadcasts == num_before + 2:
            raise ConnectionError("torn")
        broadcast(receiver.model_update_group, tensor, src)

    receiver.model_update_group.broadcast = torn
    with pytest.raises(ConnectionError, match="torn"):
        engine.push(sender, offered(sender, draw(6)))
    named = draw(7)
    offer = offered(sender, named, Receivers(1, 1, "after an error"))
    assert offer.init is not None
    engine.push(sender, offer)
    engine.assert_says_what_hf_does(named)
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_sender_waits_for_engines_no_longer_than_its_timeout_and_connects_anew(nccl, engine, path, draw):
    sender = make_sender("nccl", path, "float32", 1.0)
    named = draw(8)
    assert offered(sender, named).init is not None
    with pytest.raises(RuntimeError, match="the others did not come for weights within 1 s"):
        sender.send()
    engine.push(sender, offered(sender, named))
    assert offered(sender, named).init is None
    with pytest.raises(RuntimeError, match="the others were not ready for weights within 1 s"):
        sender.send()
    assert offered(sender, named).init is not None
    sender.close()


def test_a_broadcast_that_hangs_is_aborted(nccl):
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(nccl, "broadcast", lambda self, tensor, src: self.is_destroyed.wait(30))
        from vllm.utils.network_utils import get_open_port

        port = get_open_port()
        coming = pool.submit(Connection, "127.0.0.1", port, 1, 2, 1.0)
        sending, receiving = Connection("127.0.0.1", port, 0, 2, 1.0), coming.result()
        lost = pool.submit(receiving._meet)
        with pytest.raises(RuntimeError, match="weights were not transferred within 1 s"), sending.transfer():
            sending.communicator.broadcast(torch.zeros(1), 0)
        lost.result()
        with pytest.raises(RuntimeError, match="the connection is closed"), sending.transfer():
            pass


def test_workers_have_ranks_behind_the_first_learner_and_the_transfer_is_packed(nccl, path, draw):
    sender = make_sender("nccl", path, "bfloat16", 20.0)
    named = draw(0)
    first, second = merge([sender.offer(named, Receivers(2, 4, 0), 0), sender.offer(named, Receivers(2, 4, 0), 1)])
    assert [first.init["rank_offset"], second.init["rank_offset"]] == [1, 5]
    assert first.init["world_size"] == second.init["world_size"] == 9
    assert first.init["packed"] is True
    assert first.init["master_port"] == second.init["master_port"]
    assert set(first.update["dtype_names"]) == {"bfloat16"}
    sender.close()
