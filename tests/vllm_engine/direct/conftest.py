"""vLLM in the test's own process, and the calls of NCCL and CUDA replaced, so that a CPU can make direct pushes."""

import asyncio
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vlmgym_policies.engine import Message, Prompt, Sampling, make_engine
from vlmgym_policies.engines import _vllm_sender
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_request import sampling_params, unused_media, vllm_prompt
from vlmgym_policies.engines._vllm_transport import BACKENDS, make_transport
from vlmgym_policies.processing import VLMProcessor, load_vlm

GREEDY = Sampling(temperature=0, max_tokens=12)


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
    """The class that stands in for NCCL's communicator; parts are of 128 KiB."""
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
    return Communicator


@pytest.fixture
def cuda_ipc(monkeypatch):
    """Handles name tensors of this process. Returns PyTorch's counters, of the spare tensor first."""
    from vllm.distributed.weight_transfer import ipc_engine

    exported, counters = {}, {}

    def reduce_tensor(tensor):
        exported[handle := f"handle {len(exported)}".encode()] = tensor
        counters[handle] = 1
        storage = (tensor.storage_offset(), torch.storage.TypedStorage, tensor.dtype, 0, handle, tensor.nbytes, 0)
        return None, (torch.Tensor, tensor.shape, tensor.stride(), *storage, False, handle, 7, b"event", True)

    def count_down(counter, offset):
        assert offset == 7
        counters[counter] -= 1

    def rebuild(cls, size, stride, offset, storage_cls, dtype, device, handle, num_bytes, start, grad, *counter):
        count_down(*counter[:2])  # what a receiver does when it lets go
        tensor = exported[handle]
        assert (cls, storage_cls) == (torch.Tensor, torch.storage.TypedStorage)
        assert (size, stride, offset, dtype) == (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
        return tensor

    monkeypatch.setattr(_vllm_sender, "reduce_tensor", reduce_tensor)
    monkeypatch.setattr(ipc_engine, "rebuild_cuda_tensor", rebuild)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-0"))
    monkeypatch.setattr(torch.UntypedStorage, "_release_ipc_counter_cuda", staticmethod(count_down), raising=False)
    return counters


class InProcess:
    """vLLM in this process, with the calls of an `AsyncLLM` that change weights."""

    def __init__(self, path, prompts):
        from vllm import LLM

        self.path = str(path)
        self.prompts = prompts
        self.hf = make_engine("hf", path=self.path)
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

    def greedy(self):
        said = []
        for index, prompt in enumerate(self.prompts):
            expanded = self.processor.encode(prompt)
            request = vllm_prompt(prompt, expanded, self.processor.image_token_id)
            params = sampling_params(GREEDY, index, self.processor)
            (answer,) = self.llm.generate([request], params, use_tqdm=False)
            output = answer.outputs[0]
            logprobs = [step[t].logprob for step, t in zip(output.logprobs, output.token_ids, strict=True)]
            said.append((list(output.token_ids), logprobs))
        return said

    def push(self, sender, offer, **options):
        """Loads while the sender sends; raises what loading raised."""
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(self.load, offer, **options)
            sender.send()
            load.result()
        sender.release()

    def assert_says_what_hf_does(self, named):
        asyncio.run(self.hf.load_weights(dict(named), 1))
        expected = asyncio.run(self.hf.generate(self.prompts, GREEDY))
        for (token_ids, logprobs), theirs in zip(self.greedy(), expected, strict=True):
            assert token_ids == theirs.token_ids.tolist()
            np.testing.assert_allclose(logprobs, theirs.logprobs, atol=1e-4)


@pytest.fixture(scope="package")
def path(make_model):
    return str(make_model(0))


@pytest.fixture(scope="package")
def in_process(path, prompts):
    before = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    yield InProcess(path, prompts)
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    if before is not None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = before


@pytest.fixture
def engine(in_process, request):
    in_process.use(request.param)
    yield in_process
    in_process.worker.weight_transfer_engine.shutdown()


@pytest.fixture(scope="package")
def prompts():
    rng = np.random.default_rng(0)
    made = []
    for text in ("Which two tiles match?", "Say why, then say where. "):
        image = Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8))
        image.save(file := io.BytesIO(), "PNG")
        made.append(Prompt((Message("user", text, (file.getvalue(),)),)))
    return made


@pytest.fixture(scope="package")
def draw(path):
    """Weights by seed: the language model's matrices at random."""

    def drawn(seed):
        model = load_vlm(path, torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() >= 2 and "visual" not in name:
                    values = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(values * 1.2 / parameter[0].numel() ** 0.5)
        return model.state_dict()

    return drawn
