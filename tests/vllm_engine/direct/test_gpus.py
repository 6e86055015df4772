"""What only GPUs show: direct pushes as they are, memory that comes back, and speed."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

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
    """bfloat16. By ipc the engine shares this process's GPU and sleeps before a push; by nccl it has the second one."""
    num_gpus = {"ipc": 1, "nccl": 2}[transport]
    if torch.cuda.device_count() < num_gpus:
        pytest.skip(f"needs {num_gpus} GPUs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "1" if transport == "nccl" else "0")
        options = {"dtype": "bfloat16", "gpu_memory_utilization": 0.3, "transport": transport}
        engine = make_engine("vllm", path=path, can_sleep=transport == "ipc", **options)
    hf = make_engine("hf", path=path, dtype="bfloat16", device="cuda")
    sender = make_sender(transport, path, "bfloat16", 60.0)
    allocated_bytes = []
    try:
        for version in (1, 2, 3):
            if transport == "ipc":
                assert_gives_memory_back(engine)
            named = {name: tensor.to("cuda:0", torch.bfloat16) for name, tensor in draw(version).items()}
            (offer,) = merge([sender.offer(named, Receivers(1, 1, 0), 0)])
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(asyncio.run, engine.load_weights(offer, version))
                sender.send()
                load.result()
            sender.release()
            allocated_bytes.append(torch.cuda.memory_allocated())
            asyncio.run(hf.load_weights(named, version))
            ours, theirs = (asyncio.run(e.generate(prompts, ONE_TOKEN)) for e in (engine, hf))
            for our, their in zip(ours, theirs, strict=True):
                assert our.weights_version == version
                assert our.token_ids.tolist() == their.token_ids.tolist()
                np.testing.assert_allclose(our.logprobs, their.logprobs, atol=0.05)
        assert allocated_bytes[2] <= allocated_bytes[1]
    finally:
        engine.close()


def assert_gives_memory_back(engine):
    before_bytes, total_bytes = torch.cuda.mem_get_info()
    asyncio.run(engine.sleep())
    assert torch.cuda.mem_get_info()[0] - before_bytes > 0.2 * total_bytes


@pytest.mark.gpu
def test_tokens_per_second_are_those_of_plain_vllm(path, prompts, record_property):
    """256 prompts with pictures, 128 tokens each, to their end; all that the engine adds included."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    from vllm import LLM, SamplingParams

    from vlmgym_policies.engines._vllm_request import unused_media, vllm_prompt
    from vlmgym_policies.processing import VLMProcessor

    many, sampling = [*prompts] * (256 // len(prompts)), Sampling(max_tokens=128)
    engine = make_engine("vllm", path=path, gpu_memory_utilization=0.4)
    asyncio.run(engine.generate(many, sampling))
    ours = speed(lambda seed: asyncio.run(engine.generate(many, replace(sampling, seed=seed))), lambda c: c.token_ids)
    engine.close()
    processor = VLMProcessor(path)
    requests = [vllm_prompt(prompt, processor.encode(prompt), processor.image_token_id) for prompt in many]
    llm = LLM(model=path, dtype="bfloat16", gpu_memory_utilization=0.4, limit_mm_per_prompt=unused_media(path))
    params = SamplingParams(max_tokens=128, stop_token_ids=list(processor.eos_token_ids), logprobs=0)
    llm.generate(requests, params, use_tqdm=False)
    plain = speed(lambda seed: llm.generate(requests, params, use_tqdm=False), lambda r: r.outputs[0].token_ids)
    record_property("tokens_per_s", round(ours))
    record_property("plain_vllm_tokens_per_s", round(plain))
    assert ours > 0.8 * plain


def speed(generate, token_ids):
    """Tokens per second, of the best of three calls."""
    best = 0.0
    for seed in range(3):
        started = time.monotonic()
        answers = generate(seed)
        best = max(best, sum(len(token_ids(answer)) for answer in answers) / (time.monotonic() - started))
    return best
