"""Every engine keeps the contract of `vlmgym_policies.engine`. A new engine adds its constructor to ENGINES.

The engines without weights, `function` and `openai`, have no tokens to show; their own tests hold them to the rest.
"""

import asyncio
import re

import numpy as np
import pytest
import torch

from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Engine, NoWeightsError, Sampling, make_engine
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt


def hf_engine(path, game, **options):
    return make_engine("hf", path=path, batch_wait_s=0.001, **options)


def scripted_engine(path, game, **options):
    return make_engine("scripted", writer=Demonstrator(game, {"legal_random": 1.0}), path=path, **options)


@pytest.fixture(scope="module")
def running():
    """vLLM engines by their options, kept from test to test, for a start is slow."""
    engines = {}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture
def vllm_engine(running):
    """Builds an engine, or takes one that was given no weights yet."""

    def build(path, game, **options):
        if tuple(options) not in running:
            running[tuple(options)] = make_engine("vllm", path=path, dtype="float32", block_size=32, **options)
        return running[tuple(options)]

    yield build
    for options, engine in list(running.items()):
        if asyncio.run(engine.weights_version()) != (None if options else 0):
            running.pop(options).close()


ENGINES = {"hf": hf_engine, "scripted": scripted_engine}


@pytest.fixture(params=[*sorted(ENGINES), pytest.param("vllm", marks=pytest.mark.vllm)])
def build(request, make_model, game):
    start = ENGINES.get(request.param) or request.getfixturevalue(f"{request.param}_engine")
    return lambda **options: start(str(make_model(0)), game, **options)


@pytest.fixture(scope="module")
def prompts(game):
    states = [game.mid_game(seed) for seed in range(5)]
    return [make_prompt(game.prompt, game.render(state), state) for state in states]


def generate(engine, prompts, *, max_tokens=12, **sampling):
    return asyncio.run(engine.generate(prompts, Sampling(max_tokens=max_tokens, **sampling)))


def test_is_an_engine(build):
    assert isinstance(build(), Engine)


def test_one_completion_per_prompt_in_order(build, prompts, make_model):
    processor = VLMProcessor(str(make_model(0)))
    completions = generate(build(), prompts, seed=3)
    assert len(completions) == len(prompts)
    for prompt, completion in zip(prompts, completions, strict=True):
        np.testing.assert_array_equal(completion.prompt_token_ids, processor.encode(prompt))
        assert completion.token_ids.dtype == np.int32 and completion.logprobs.dtype == np.float32
        assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 12
        assert (completion.logprobs <= 0).all()
        ended = completion.token_ids[-1] in processor.eos_token_ids
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.text == processor.decode(completion.token_ids)


def test_same_seed_same_tokens_whatever_shares_the_batch(build, prompts):
    engine = build()
    together = generate(engine, prompts, seed=11)
    alone = generate(engine, prompts[:1], seed=11)[0]
    np.testing.assert_array_equal(together[0].token_ids, alone.token_ids)


def test_other_seed_other_tokens(build, prompts):
    engine = build()
    texts = {tuple(c.text for c in generate(engine, prompts, seed=seed, max_tokens=48)) for seed in range(4)}
    assert len(texts) > 1


def test_concurrent_requests_get_their_own_answers(build, prompts):
    engine = build()

    async def both():
        calls = [engine.generate([p], Sampling(max_tokens=6, seed=i)) for i, p in enumerate(prompts)]
        return await asyncio.gather(*calls)

    for prompt_index, (completion,) in enumerate(asyncio.run(both())):
        (alone,) = asyncio.run(engine.generate([prompts[prompt_index]], Sampling(max_tokens=6, seed=prompt_index)))
        np.testing.assert_array_equal(completion.token_ids, alone.token_ids)


def test_media_tokens_are_never_sampled(build, prompts, make_model):
    banned = VLMProcessor(str(make_model(0))).banned_token_ids
    assert banned
    for completion in generate(build(), prompts, seed=5, temperature=2.0, max_tokens=64):
        assert not np.isin(completion.token_ids, banned).any()


def test_weights_and_version_change_together(build, prompts, make_model):
    other = load_vlm(str(make_model(1)), torch.float32).state_dict()

    async def run():
        engine = build()
        assert await engine.weights_version() == 0
        before = await engine.generate(prompts, Sampling(max_tokens=4))
        await engine.load_weights(other, 7)
        return before, await engine.generate(prompts, Sampling(max_tokens=4)), await engine.weights_version()

    before, after, version = asyncio.run(run())
    assert {c.weights_version for c in before} == {0}
    assert {c.weights_version for c in after} == {7} and version == 7


def test_refuses_to_serve_before_its_first_weights(build, prompts, make_model):
    weights = load_vlm(str(make_model(0)), torch.float32).state_dict()

    async def run():
        engine = build(wait_for_weights=True)
        assert await engine.weights_version() is None
        with pytest.raises(NoWeightsError):
            await engine.generate(prompts[:1], Sampling(max_tokens=2))
        await engine.load_weights(weights, 3)
        return await engine.generate(prompts[:1], Sampling(max_tokens=2))

    assert asyncio.run(run())[0].weights_version == 3


def test_pause_holds_requests_until_resume(build, prompts):
    async def run():
        engine = build()
        await engine.generate(prompts[:1], Sampling(max_tokens=2))
        await engine.pause()
        asked = asyncio.ensure_future(engine.generate(prompts[:1], Sampling(max_tokens=2)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        await engine.resume()
        return await asyncio.wait_for(asked, 60)

    assert len(asyncio.run(run())) == 1


def test_unknown_type_is_refused():
    message = "engine type must be one of function, hf, openai, scripted, vllm, got 'vlm'"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_engine("vlm")
