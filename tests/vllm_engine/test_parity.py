"""vLLM and Hugging Face say the same of the same weights, before and after pushes: tokens equal, log-probs to 1e-4."""

import asyncio
import io
import itertools
import time

import numpy as np
import pytest
import torch
from PIL import Image

from vlmgym_policies.engine import Message, NoWeightsError, Prompt, Sampling, make_engine
from vlmgym_policies.engines._vllm_names import WeightNames
from vlmgym_policies.engines._vllm_transport import SharedMemory
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.vlm_network import vision_tower

pytestmark = pytest.mark.vllm

BLOCK_SIZE = 32
TEXT = "Which two tiles match? Say why, then say where. " * 3
GREEDY = Sampling(temperature=0, max_tokens=16)


@pytest.fixture(scope="module", params=["demo", "llava", "qwen2_5_vl"])
def path(request, make_model):
    return make_model(0) if request.param == "demo" else request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def engine(path, start_engine):
    """One for each model: it has the weights of its file until the first push, and any after."""
    return start_engine(path)


@pytest.fixture
def prompts():
    """Noise of a size that has to be rounded to whole patches, and one that has not."""
    rng = np.random.default_rng(0)
    return [Prompt((Message("user", TEXT, (png(rng, size),)),)) for size in ((112, 112), (97, 133), (112, 112))]


def png(rng, size):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def redrawn(model, part, seed):
    """All weights, those of one part ("vision" or "language") at random: decisive logits that depend on the picture."""
    tower = {id(parameter) for parameter in vision_tower(model).parameters()}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2 and (id(parameter) in tower) == (part == "vision"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.2 / parameter[0].numel() ** 0.5)
    return {name: value.clone() for name, value in model.state_dict().items()}


def greedy(engine, prompts):
    return asyncio.run(engine.generate(prompts, GREEDY))


def assert_same(completions, expected):
    for ours, theirs in zip(completions, expected, strict=True):
        np.testing.assert_array_equal(ours.prompt_token_ids, theirs.prompt_token_ids)
        np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)


def largest_difference(completions, expected):
    return max(float(np.abs(a.logprobs - b.logprobs).max()) for a, b in zip(completions, expected, strict=True))


def test_tokens_and_logprobs_equal_those_of_hf_before_and_after_pushes(path, prompts, engine, record_property):
    """The same pictures again after each push: a cache that outlived one would answer with the old model's features."""
    hf = make_engine("hf", path=str(path))
    assert asyncio.run(engine.weights_version()) == 0
    model = load_vlm(str(path), torch.float32)
    said = []
    for version, part in enumerate(("none", "language", "vision", "language", "vision")):
        weights = redrawn(model, part, version) if version else dict(model.state_dict())
        pushed = time.monotonic()
        if version:
            asyncio.run(engine.load_weights(weights, version))
        record_property(f"push_{version}_s", round(time.monotonic() - pushed, 3))
        asyncio.run(hf.load_weights(weights, version))
        completions, expected = greedy(engine, prompts), greedy(hf, prompts)
        record_property(f"difference_{version}_{part}", largest_difference(completions, expected))
        assert_same(completions, expected)
        assert {c.weights_version for c in completions} == {version}
        assert all(len(c.prompt_token_ids) > BLOCK_SIZE for c in completions)
        said.append([c.logprobs.tolist() for c in completions])
    assert all(before != after for before, after in itertools.pairwise(said))


def test_sampled_logprobs_are_those_of_the_learner(path, prompts, engine):
    processor = VLMProcessor(str(path))
    model = load_vlm(str(path), torch.float32)
    weights = redrawn(model, "language", 5)
    asyncio.run(engine.load_weights(weights, 1))
    banned = list(processor.banned_token_ids)
    for temperature in (0.7, 1.0, 2.0):
        completions = asyncio.run(engine.generate(prompts, Sampling(temperature=temperature, max_tokens=20, seed=2)))
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = np.concatenate([completion.prompt_token_ids, completion.token_ids])
            with torch.no_grad():
                logits = model(**processor.collate([ids], [prompt.images], padding="right")).logits[0].float()
            logits = logits[len(completion.prompt_token_ids) - 1 : -1] / temperature
            logits[:, banned] = float("-inf")
            taken = torch.from_numpy(completion.token_ids).long()
            expected = logits.log_softmax(-1)[torch.arange(len(taken)), taken]
            np.testing.assert_allclose(completion.logprobs, expected.numpy(), atol=1e-4)


class TornPush(SharedMemory):
    """Sends half of the tensors."""

    async def push(self, llm, accepted):
        await super().push(llm, dict(list(accepted.items())[: len(accepted) // 2]))


class SpoiltPush(SharedMemory):
    """Says of another set of tensors that it is this one."""

    async def push(self, llm, accepted):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vlmgym_policies.engines._vllm_transport.weights_checksum", lambda weights: 5)
            await super().push(llm, accepted)


@pytest.mark.parametrize(("broken", "message"), [(TornPush, "lack"), (SpoiltPush, "must have checksum 5")])
def test_after_a_broken_push_nothing_is_served_until_one_succeeds(path, prompts, engine, broken, message):
    hf = make_engine("hf", path=str(path))
    weights = redrawn(load_vlm(str(path), torch.float32), "language", 9)
    whole = engine._weights._transport
    engine._weights._transport = broken(WeightNames.of(str(path)), torch.float32)
    with pytest.raises(Exception, match=message):
        asyncio.run(engine.load_weights(weights, 1))
    assert asyncio.run(engine.weights_version()) is None
    with pytest.raises(NoWeightsError):
        greedy(engine, prompts)
    engine._weights._transport = whole
    for version in (2, 3):
        asyncio.run(engine.load_weights(weights, version))
        asyncio.run(hf.load_weights(weights, version))
        completions = greedy(engine, prompts)
        assert_same(completions, greedy(hf, prompts))
        assert {c.weights_version for c in completions} == {version}
