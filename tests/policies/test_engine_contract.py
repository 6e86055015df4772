"""Every engine keeps the contract of `vlmgym_policies.engine`. A new engine adds its constructor to ENGINES.

The engines without weights, `function` and `openai`, have no tokens to show; their own tests hold them to the rest.
"""

import asyncio
import re

import numpy as np
import pytest
import torch

from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import (
    Message,
    NoWeightsError,
    Prompt,
    PromptTooLongError,
    Sampling,
    StreamingEngine,
    make_engine,
)
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
        key = tuple(options.items())
        if key not in running:
            running[key] = make_engine("vllm", path=path, dtype="float32", block_size=32, **options)
        return running[key]

    yield build
    for options, engine in list(running.items()):
        if asyncio.run(engine.weights_version()) != (None if ("wait_for_weights", True) in options else 0):
            running.pop(options).close()


ENGINES = {"hf": hf_engine, "scripted": scripted_engine}
VLLM = pytest.param("vllm", marks=pytest.mark.vllm)


@pytest.fixture(params=[*sorted(ENGINES), VLLM])
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
    assert isinstance(build(), StreamingEngine)


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


models = pytest.mark.parametrize("build", ["hf", VLLM], indirect=True)  # which take their time and so can be caught
in_flight_modes = pytest.mark.parametrize("in_flight", ["finish", "redo"])


@models
def test_sleep_holds_requests_until_weights_come(build, prompts, make_model):
    weights = load_vlm(str(make_model(0)), torch.float32).state_dict()

    async def run():
        engine = build()
        await engine.generate(prompts[:1], Sampling(max_tokens=2))
        await engine.sleep()
        asked = asyncio.ensure_future(engine.generate(prompts[:1], Sampling(max_tokens=2)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        await engine.load_weights(weights, 1)
        return await asyncio.wait_for(asked, 60)

    (completion,) = asyncio.run(run())
    assert completion.weights_version == 1


@models
@in_flight_modes
def test_what_is_under_way_finishes_or_starts_again(build, prompts, make_model, in_flight):
    other = load_vlm(str(make_model(1)), torch.float32).state_dict()
    sampling = Sampling(temperature=0, max_tokens=64)

    async def run():
        engine = build(in_flight=in_flight)
        before = await engine.generate(prompts[:1], sampling)
        asked = asyncio.ensure_future(engine.generate(prompts[:1], sampling))
        await asyncio.sleep(0)
        await engine.generate(prompts[1:2], Sampling(max_tokens=1))  # came later, so the other one runs by now
        assert not asked.done()
        await engine.load_weights(other, 1)
        return before, await asked, await engine.generate(prompts[:1], sampling)

    (before,), (caught,), (after,) = asyncio.run(run())
    assert not np.array_equal(before.token_ids, after.token_ids)
    expected = before if in_flight == "finish" else after
    assert caught.weights_version == expected.weights_version == (0 if in_flight == "finish" else 1)
    np.testing.assert_array_equal(caught.token_ids, expected.token_ids)


@models
@in_flight_modes
def test_no_completion_mixes_weights(build, prompts, make_model, in_flight):
    """Five callers ask on while weights change: each completion is what the weights of its version say."""
    weights = [load_vlm(str(make_model(seed)), torch.float32).state_dict() for seed in range(2)]
    sampling = Sampling(temperature=0, max_tokens=24)
    seen = []

    async def ask_on(engine, index):
        while True:
            (completion,) = await engine.generate([prompts[index]], sampling)
            seen.append((index, completion))

    async def run():
        engine = build(in_flight=in_flight)
        await engine.load_weights(weights[1], 1)
        odd = await engine.generate(prompts, sampling)
        await engine.load_weights(weights[0], 2)
        even = await engine.generate(prompts, sampling)
        callers = [asyncio.ensure_future(ask_on(engine, index)) for index in range(len(prompts))]

        async def until(num, of_version):
            while sum(completion.weights_version == of_version for _, completion in seen) < num:
                await asyncio.sleep(0.001)
                assert not any(caller.done() for caller in callers)

        for version in range(3, 7):
            await until(3, of_version=version - 1)
            await engine.load_weights(weights[version % 2], version)
        await until(1, of_version=6)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        return even, odd

    expected = asyncio.run(run())
    assert not np.array_equal(expected[0][0].token_ids, expected[1][0].token_ids)
    assert {completion.weights_version for _, completion in seen} == {2, 3, 4, 5, 6}
    for index, completion in seen:
        of_its_weights = expected[completion.weights_version % 2][index]
        np.testing.assert_array_equal(completion.token_ids, of_its_weights.token_ids)


async def read_stream(engine, prompts, sampling):
    return [delta async for delta in engine.stream(prompts, sampling)]


def test_a_stream_tells_what_generate_answers(build, prompts):
    """Texts and tokens add up to the completions; each of these comes with the last delta of its prompt."""
    engine, sampling = build(), Sampling(max_tokens=24, seed=5)

    async def run():
        return await engine.generate(prompts, sampling), await read_stream(engine, prompts, sampling)

    completions, deltas = asyncio.run(run())
    for index, completion in enumerate(completions):
        own = [delta for delta in deltas if delta.index == index]
        assert len(own) > 1 and [delta.completion for delta in own[:-1]] == [None] * (len(own) - 1)
        streamed = own[-1].completion
        np.testing.assert_array_equal(streamed.token_ids, completion.token_ids)
        np.testing.assert_allclose(streamed.logprobs, completion.logprobs, atol=1e-4)
        assert (streamed.text, streamed.finish_reason) == (completion.text, completion.finish_reason)
        assert "".join(delta.text for delta in own) == completion.text
        assert sum(delta.num_tokens for delta in own) == len(completion.token_ids)
        assert {delta.weights_version for delta in own} == {completion.weights_version}


@models
def test_a_stream_that_is_closed_ends_its_responses(build, prompts):
    async def run():
        engine = build()
        stream = engine.stream(prompts, Sampling(temperature=0, max_tokens=3000))
        first = await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(engine.pause(), 60)  # which waits for all that runs
        await engine.resume()
        return first

    assert asyncio.run(run()).completion is None


@models
def test_a_stream_that_has_begun_keeps_its_weights(build, prompts, make_model):
    other = load_vlm(str(make_model(1)), torch.float32).state_dict()
    sampling = Sampling(temperature=0, max_tokens=64)

    async def run():
        engine = build()
        (before,) = await engine.generate(prompts[:1], sampling)
        stream = engine.stream(prompts[:1], sampling)
        deltas = [await anext(stream)]
        load = asyncio.ensure_future(engine.load_weights(other, 1))
        deltas += [delta async for delta in stream]
        await load
        return before, deltas, await read_stream(engine, prompts[:1], sampling)

    before, caught, after = asyncio.run(run())
    assert {delta.weights_version for delta in caught} == {0} and {delta.weights_version for delta in after} == {1}
    np.testing.assert_array_equal(caught[-1].completion.token_ids, before.token_ids)
    assert not np.array_equal(after[-1].completion.token_ids, before.token_ids)


@models
def test_responses_that_may_start_again_are_not_streamed(build, prompts):
    with pytest.raises(ValueError, match="in_flight must be finish"):
        build(in_flight="redo").stream(prompts, Sampling())


@models
def test_a_prompt_that_is_too_long_loses_turns_or_is_refused(build, prompts):
    (short,), number = prompts[0].messages, 12
    chat = Prompt((Message("user", "x " * 200), Message("assistant", "y"), short))
    (full,) = generate(build(), [prompts[0]], max_tokens=number)
    length = len(full.prompt_token_ids) + number
    (cut,) = generate(build(max_model_len=length), [chat], max_tokens=number)
    assert cut.num_cut_turns == 1
    engine = build(max_model_len=length, cut_turns=False)
    assert len(generate(engine, [prompts[0]], max_tokens=number)) == 1
    with pytest.raises(PromptTooLongError, match=f"at most {length - number} tokens, got "):
        generate(engine, [chat], max_tokens=number)
    with pytest.raises(PromptTooLongError):
        asyncio.run(read_stream(engine, [chat], Sampling(max_tokens=number)))


def test_unknown_type_is_refused():
    message = "engine type must be one of function, hf, openai, scripted, vllm, got 'vlm'"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_engine("vlm")
