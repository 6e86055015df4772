"""Direct pushes as they are, between GPUs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.engines._vllm_sender import Receivers, make_sender, merge

pytestmark = pytest.mark.vllm

ONE_TOKEN = Sampling(temperature=0, max_tokens=1)


@pytest.mark.gpu
@pytest.mark.parametrize("transport", ["ipc", "nccl"])
def test_on_gpus_pushes_change_what_is_said_to_what_hf_says(transport, path, prompts, draw):
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
            named = {name: tensor.to("cuda:0", torch.bfloat16) for name, tensor in draw(version).items()}
            (offer,) = merge([sender.offer(named, Receivers(1, 1, 0), 0)])
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(asyncio.run, engine.load_weights(offer, version))
                sender.send()
                load.result()
            sender.release()
            asyncio.run(hf.load_weights(named, version))
            ours, theirs = (asyncio.run(e.generate(prompts, ONE_TOKEN)) for e in (engine, hf))
            for our, their in zip(ours, theirs, strict=True):
                assert our.token_ids.tolist() == their.token_ids.tolist()
                np.testing.assert_allclose(our.logprobs, their.logprobs, atol=0.05)
    finally:
        engine.close()
