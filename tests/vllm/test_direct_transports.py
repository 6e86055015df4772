"""Weights that go from a learner straight into vLLM's workers: what it says then is what Hugging Face says.

On a CPU the calls of NCCL and CUDA are replaced here; tests that need a GPU make them.
"""

import asyncio
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vlmgym_policies.engine import Message, Prompt, Sampling, make_engine
from vlmgym_policies.engines import _vllm_sender
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_nccl import Connection
from vlmgym_policies.engines._vllm_request import sampling_params, unused_media, vllm_prompt
from vlmgym_policies.engines._vllm_sender import Receivers, make_sender, merge
from vlmgym_policies.engines._vllm_transport import BACKENDS, make_transport
from vlmgym_policies.processing import VLMProcessor, load_vlm

pytestmark = pytest.mark.vllm

GREEDY = Sampling(temperature=0, max_tokens=12)
ONE = Receivers(num_engines=1, workers_per_engine=1, members=0)


class Communicator:
    """NCCL's, by way of the store that the ranks share."""

    disabled = False

    def __init__(self, group, device):
        self.group, self.num_broadcasts, self.is_destroyed = group, 0, threading.Event()

    def broadcast(self, tensor, src, stream=None):
        self.num_broadcasts += 1
        tensor.copy_(self.group.broadcast(tensor, src))

    def destroy(self):
        self.is_destroyed.set()


@pytest.fixture
def nccl(monkeypatch):
    from vllm.distributed.device_communicators import pynccl
    from vllm.distributed.weight_transfer import packed_tensor
    from vllm.utils import network_utils

    monkeypatch.setattr(network_utils, "get_ip", lambda: "127.0.0.1")
    monkeypatch.setattr(pynccl, "PyNcclCommunicator", Communicator)
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, num_buffers: (stream,) * num_buffers)
    monkeypatch.setattr(packed_tensor, "DEFAULT_PACKED_BUFFER_SIZE_BYTES", 2**17)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)


@pytest.fixture
def cuda_ipc(monkeypatch):
    """Handles name tensors of this process. Returns the counters that were released."""
    from vllm.distributed.weight_transfer import ipc_engine

    exported, released = {}, []

    def reduce_tensor(tensor):
        exported[handle := f"handle {len(exported)}".encode()] = tensor
        storage = (tensor.storage_offset(), torch.storage.TypedStorage, tensor.dtype, 0, handle, tensor.nbytes, 0)
        return None, (torch.Tensor, tensor.shape, tensor.stride(), *storage, False, handle, 7, b"event", True)

    def rebuild(cls, size, stride, offset, storage_cls, dtype, device, handle, *_):
        tensor = exported[handle]
        assert (cls, storage_cls) == (torch.Tensor, torch.storage.TypedStorage)
        assert (size, stride, offset, dtype) == (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
        return tensor

    monkeypatch.setattr(_vllm_sender, "reduce_tensor", reduce_tensor)
    monkeypatch.setattr(ipc_engine, "rebuild_cuda_tensor", rebuild)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-0"))
    release = staticmethod(lambda *counter: released.append(counter))
    monkeypatch.setattr(torch.UntypedStorage, "_release_ipc_counter_cuda", release, raising=False)
    return released


class InProcess:
    """vLLM in this process, with the calls of an `AsyncLLM` that change weights."""

    def __init__(self, path):
        from vllm import LLM

        self.path = str(path)
        self.processor = VLMProcessor(self.path)
        self.llm = LLM(
            model=self.path,
            dtype="float32",
            block_size=32,
            max_num_seqs=4,
            enforce_eager=True,
            gpu_memory_utilization=0.2,  # of all memory, which others use too
            enable_prefix_caching=False,
            distributed_executor_backend="uni",
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            limit_mm_per_prompt=unused_media(self.path),
            worker_extension_cls="vlmgym_policies.engines._vllm_worker.WorkerExtension",
            weight_transfer_config={"backend": BACKENDS["nccl"]},
            seed=0,
        )
        self.worker = self.llm.llm_engine.model_executor.driver_worker.worker

    def use(self, transport):
        """A new receiver, as in a new worker."""
        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

        config = WeightTransferConfig(backend=BACKENDS[transport])
        old, model = self.worker.weight_transfer_engine, self.worker.model_runner.get_model()
        self.worker.weight_transfer_engine = WeightTransferEngineFactory.create_engine(
            config, old.vllm_config, old.device, model
        )
        self.transport = make_transport(transport, WeightNames.of(self.path), torch.float32)

    async def init_weight_transfer_engine(self, request):
        self.llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": request.init_info})

    async def start_weight_update(self):
        self.llm.collective_rpc("start_weight_update")

    async def update_weights(self, request):
        self.llm.collective_rpc("update_weights", kwargs={"update_info": request.update_info})

    async def finish_weight_update(self):
        self.llm.collective_rpc("finish_weight_update")

    def load(self, offer, checked=True):
        async def load():
            accepted = await self.transport.accept(offer) if checked else offer
            await self.transport.connect(self, accepted)
            await self.transport.push(self, accepted)

        asyncio.run(load())

    def greedy(self, prompts):
        said = []
        for index, prompt in enumerate(prompts):
            expanded = self.processor.encode(prompt)
            request = vllm_prompt(prompt, expanded, self.processor.image_token_id)
            params = sampling_params(GREEDY, index, self.processor)
            (answer,) = self.llm.generate([request], params, use_tqdm=False)
            output = answer.outputs[0]
            logprobs = [step[t].logprob for step, t in zip(output.logprobs, output.token_ids, strict=True)]
            said.append((list(output.token_ids), logprobs))
        return said


@pytest.fixture(scope="module")
def path(make_model):
    return str(make_model(0))


@pytest.fixture(scope="module")
def in_process(path):
    before = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    yield InProcess(path)
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    if before is not None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = before


@pytest.fixture
def engine(in_process, request):
    in_process.use(request.param)
    yield in_process
    in_process.worker.weight_transfer_engine.shutdown()


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    made = []
    for text in ("Which two tiles match?", "Say why, then say where. "):
        image = Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8))
        image.save(file := io.BytesIO(), "PNG")
        made.append(Prompt((Message("user", text, (file.getvalue(),)),)))
    return made


@pytest.fixture(scope="module")
def hf(path):
    return make_engine("hf", path=path)


def weights(path, seed):
    """The language model's matrices at random."""
    model = load_vlm(path, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "visual" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.2 / parameter[0].numel() ** 0.5)
    return model.state_dict()


def assert_says_the_same(engine, hf, prompts, named):
    asyncio.run(hf.load_weights(dict(named), 1))
    expected = asyncio.run(hf.generate(prompts, GREEDY))
    for (token_ids, logprobs), theirs in zip(engine.greedy(prompts), expected, strict=True):
        assert token_ids == theirs.token_ids.tolist()
        np.testing.assert_allclose(logprobs, theirs.logprobs, atol=1e-4)


def push(engine, sender, offer, **options):
    """Sends while the engine loads; raises what that raised."""
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(engine.load, offer, **options)
        sender.send()
        load.result()
    sender.release()


def offered(sender, named, to=ONE):
    (offer,) = merge([sender.offer(named, to, 0)])
    return offer


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_nccl_pushes_are_answered_as_hf_does(nccl, engine, path, hf, prompts):
    sender = make_sender("nccl", path, "float32", 20.0)
    handshakes = []
    for seed, members in enumerate((0, 0, 1)):
        named = weights(path, seed)
        offer = offered(sender, named, Receivers(1, 1, members))
        handshakes.append(offer.init is not None)
        push(engine, sender, offer)
        assert_says_the_same(engine, hf, prompts, named)
    assert handshakes == [True, False, True]
    assert engine.worker.weight_transfer_engine.model_update_group.num_broadcasts > 3  # in parts of 128 KiB
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_wrong_sum_and_a_missing_parameter_are_refused_and_the_next_push_is_whole(nccl, engine, path, hf, prompts):
    sender = make_sender("nccl", path, "float32", 20.0)
    named = weights(path, 3)
    offer = offered(sender, named)
    with pytest.raises(ValueError, match=f"weights must have checksum 5, got {offer.checksum}"):
        push(engine, sender, replace(offer, checksum=5))
    sender._names.shapes.pop("model.language_model.norm.weight")
    offer = offered(sender, {k: v for k, v in named.items() if k != "model.language_model.norm.weight"})
    assert offer.init is None
    with pytest.raises(ValueError, match=r"weights lack 1 of the model's parameters, first language_model.model.norm"):
        push(engine, sender, offer, checked=False)
    with pytest.raises(ValueError, match=r"complete, model.language_model.norm.weight is missing"):
        engine.load(offer)
    sender._names = WeightNames.of(path)
    push(engine, sender, offered(sender, named))
    assert_says_the_same(engine, hf, prompts, named)
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_worker_that_cannot_load_still_takes_the_whole_broadcast(nccl, engine, path, hf, prompts, monkeypatch):
    sender = make_sender("nccl", path, "float32", 20.0)
    named, model = weights(path, 4), engine.worker.weight_transfer_engine.model

    def load_weights(weights):
        raise MemoryError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(type(model), "load_weights", lambda self, weights: load_weights(weights))
        with pytest.raises(MemoryError, match="out of memory"):
            push(engine, sender, offered(sender, named))
    offer = offered(sender, named)
    assert offer.init is None
    push(engine, sender, offer)
    assert_says_the_same(engine, hf, prompts, named)
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_a_push_torn_halfway_is_followed_by_a_new_connection_and_a_whole_one(nccl, engine, path, hf, prompts):
    sender = make_sender("nccl", path, "float32", 3.0)
    named = weights(path, 5)
    push(engine, sender, offered(sender, named))
    receiver, broadcast = engine.worker.weight_transfer_engine, Communicator.broadcast
    num_before = receiver.model_update_group.num_broadcasts

    def torn(tensor, src, stream=None):
        if receiver.model_update_group.num_broadcasts == num_before + 2:
            raise ConnectionError("torn")
        broadcast(receiver.model_update_group, tensor, src)

    receiver.model_update_group.broadcast = torn
    with pytest.raises(ConnectionError, match="torn"):
        push(engine, sender, offered(sender, weights(path, 6)))
    named = weights(path, 7)
    offer = offered(sender, named, Receivers(1, 1, "after an error"))
    assert offer.init is not None
    push(engine, sender, offer)
    assert_says_the_same(engine, hf, prompts, named)
    sender.close()


@pytest.mark.parametrize("engine", ["nccl"], indirect=True)
def test_engines_that_do_not_come_cost_the_sender_its_timeout_and_the_next_offer_connects_anew(nccl, engine, path):
    sender = make_sender("nccl", path, "float32", 1.0)
    named = weights(path, 8)
    assert offered(sender, named).init is not None
    with pytest.raises(RuntimeError, match="the others did not come for weights within 1 s"):
        sender.send()
    push(engine, sender, offered(sender, named))
    assert offered(sender, named).init is None
    with pytest.raises(RuntimeError, match="the others were not ready for weights within 1 s"):
        sender.send()
    assert offered(sender, named).init is not None
    sender.close()


def test_a_broadcast_that_hangs_is_aborted(nccl):
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(Communicator, "broadcast", lambda self, tensor, src: self.is_destroyed.wait(30))
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


def test_workers_have_ranks_behind_the_first_learner_and_the_transfer_is_packed(nccl, path):
    sender = make_sender("nccl", path, "bfloat16", 20.0)
    named = weights(path, 0)
    first, second = merge([sender.offer(named, Receivers(2, 4, 0), 0), sender.offer(named, Receivers(2, 4, 0), 1)])
    assert [first.init["rank_offset"], second.init["rank_offset"]] == [1, 5]
    assert first.init["world_size"] == second.init["world_size"] == 9
    assert first.init["packed"] is True
    assert first.init["master_port"] == second.init["master_port"]
    assert set(first.update["dtype_names"]) == {"bfloat16"}
    sender.close()


@pytest.mark.parametrize("engine", ["ipc"], indirect=True)
def test_ipc_pushes_are_answered_as_hf_does(cuda_ipc, engine, path, hf, prompts):
    sender = make_sender("ipc", path, "float32", 20.0)
    for seed in (0, 1):
        named = weights(path, seed)
        push(engine, sender, offered(sender, named))
        assert_says_the_same(engine, hf, prompts, named)
    assert len(cuda_ipc) == 2 * len(named)
    assert cuda_ipc[0] == (b"handle 0", 7)


@pytest.mark.parametrize("engine", ["ipc"], indirect=True)
def test_ipc_offers_with_a_wrong_sum_or_of_another_gpu_are_refused(cuda_ipc, engine, path, hf, prompts):
    sender = make_sender("ipc", path, "float32", 20.0)
    named = weights(path, 2)
    offer = offered(sender, named)
    with pytest.raises(ValueError, match="weights must have checksum 5"):
        engine.load(replace(offer, checksum=5))
    elsewhere = [{"GPU-9": handles["GPU-0"]} for handles in offer.update["ipc_handles"]]
    with pytest.raises(ValueError, match="IPC handle not found for GPU UUID GPU-0"):
        engine.load(replace(offer, update={**offer.update, "ipc_handles": elsewhere}))
    engine.load(offer)
    assert_says_the_same(engine, hf, prompts, named)


def test_ipc_offers_hold_copies_of_all_learners_by_gpu_in_plain_values(cuda_ipc, path, monkeypatch):
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    named = weights(path, 0)
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


def test_learners_with_different_weights_are_an_error(cuda_ipc, path):
    parts = [make_sender("ipc", path, "float32", 20.0).offer(weights(path, seed), ONE, seed) for seed in range(2)]
    with pytest.raises(RuntimeError, match="learners must have the same weights, got checksums"):
        merge(parts)


def test_tensors_do_not_go_by_object_store(path):
    with pytest.raises(ValueError, match="transport must be one of ipc, nccl, got 'object_store'"):
        make_sender("object_store", path, "float32", 20.0)


@pytest.mark.gpu
@pytest.mark.parametrize("transport", ["ipc", "nccl"])
def test_on_gpus_pushes_change_what_is_said_to_what_hf_says(transport, path, prompts):
    """bfloat16. By ipc the engine shares this process's GPU; by nccl it has the second one."""
    num_gpus = {"ipc": 1, "nccl": 2}[transport]
    if torch.cuda.device_count() < num_gpus:
        pytest.skip(f"needs {num_gpus} GPUs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "1" if transport == "nccl" else "0")
        options = {"dtype": "bfloat16", "gpu_memory_utilization": 0.3, "transport": transport}
        engine = make_engine("vllm", path=path, **options)
    hf = make_engine("hf", path=path, dtype="bfloat16", device="cuda")
    sender = make_sender(transport, path, "bfloat16", 60.0)
    try:
        for version in (1, 2, 3):
            named = {name: tensor.to("cuda:0", torch.bfloat16) for name, tensor in weights(path, version).items()}
            offer = offered(sender, named)
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(asyncio.run, engine.load_weights(offer, version))
                sender.send()
                load.result()
            sender.release()
            asyncio.run(hf.load_weights(named, version))
            ours, theirs = (asyncio.run(e.generate(prompts, replace(GREEDY, max_tokens=1))) for e in (engine, hf))
            for our, their in zip(ours, theirs, strict=True):
                assert our.token_ids.tolist() == their.token_ids.tolist()
                np.testing.assert_allclose(our.logprobs, their.logprobs, atol=0.05)
    finally:
        engine.close()
