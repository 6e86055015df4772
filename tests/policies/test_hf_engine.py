"""What the HF engine samples is what the model defines, whoever comes, goes or fails beside it."""

import asyncio
import gc
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlmgym_policies.engine import (
    GenerationError,
    Message,
    NoWeightsError,
    OfferedWeights,
    Prompt,
    Sampling,
    make_engine,
)
from vlmgym_policies.engines import hf
from vlmgym_policies.engines._hf_admission import PREFILL_STEPS, Admission
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt

LONG = Sampling(max_tokens=3000)


@pytest.fixture
def path(make_model):
    return str(make_model(0))


@pytest.fixture
def start(path):
    """Starts engines that end with the test."""
    engines = []

    def build(**options):
        engines.append(make_engine("hf", path=path, batch_wait_s=0.001, **options))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def prompts(game):
    return [make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(4)]


def endless(engine):
    """Responses end by length alone, so that those of LONG are under way for as long as a test wants."""
    engine._decoder._eos = frozenset()
    return engine


def generate(engine, prompts, sampling):
    return asyncio.run(engine.generate(prompts, sampling))


async def under_way(engine, prompts, sampling=LONG):
    """A call whose rows run: it came before another that has ended."""
    asked = asyncio.ensure_future(engine.generate(prompts, sampling))
    await asyncio.sleep(0)
    await engine.generate(prompts[:1], Sampling(max_tokens=1))
    assert not asked.done()
    return asked


async def failed_with(asked):
    return (await asyncio.gather(asked, return_exceptions=True))[0]


def next_logits(path, prompt, completion):
    """Logits [T, V] that each token was drawn from, by one plain forward pass."""
    processor, model = VLMProcessor(path), load_vlm(path, torch.float32).eval()
    ids = np.concatenate([completion.prompt_token_ids, completion.token_ids])
    with torch.no_grad():
        logits = model(**processor.collate([ids], [prompt.images], padding="right")).logits[0]
    logits[:, list(processor.banned_token_ids)] = float("-inf")
    return logits[len(completion.prompt_token_ids) - 1 : -1]


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_logprobs_are_those_of_a_plain_forward_pass(start, path, prompts, temperature):
    completions = generate(start(), prompts, Sampling(temperature=temperature, max_tokens=20, seed=1))
    for prompt, completion in zip(prompts, completions, strict=True):
        logits, tokens = next_logits(path, prompt, completion), torch.tensor(completion.token_ids).long()
        logprobs = (logits / (temperature or 1)).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=1e-4)
        assert temperature or torch.equal(tokens, logits.argmax(-1))


def test_a_late_request_joins_the_batch_and_gets_what_it_gets_alone(start, prompts):
    engine, sampling = start(), Sampling(max_tokens=40, seed=2)
    steps = num_rows_per_step(engine)

    async def late():
        first = await under_way(engine, prompts[:2], sampling)
        return await asyncio.gather(engine.generate(prompts[2:], sampling), first)

    joined, first = asyncio.run(late())
    assert max(steps) >= 4
    for completions, asked in ((first, prompts[:2]), (joined, prompts[2:])):
        for completion, alone in zip(completions, generate(engine, asked, sampling), strict=True):
            np.testing.assert_array_equal(completion.token_ids, alone.token_ids)


def num_rows_per_step(engine):
    """Fills as the engine decodes."""
    seen, step = [], engine._decoder.step
    engine._decoder.step = lambda unwanted=(): seen.append(len(engine._decoder.rows)) or step(unwanted)
    return seen


def test_waiting_requests_share_a_batch_of_bounded_size(start, prompts):
    engine = endless(start(max_batch_size=8))
    steps = num_rows_per_step(engine)

    async def ask_all():
        await engine.pause()
        samplings = [Sampling(max_tokens=2 + 12 * (i % 2), seed=i) for i in range(12)]
        calls = [asyncio.ensure_future(engine.generate(prompts[:1], sampling)) for sampling in samplings]
        await asyncio.sleep(0)  # all wait
        await engine.resume()
        return await asyncio.gather(*calls)

    assert [len(c.token_ids) for (c,) in asyncio.run(ask_all())] == [2, 14] * 6
    waited = [4] * PREFILL_STEPS  # four newcomers by four rows
    assert steps == [8, 8, *waited, 8, 8, *[6] * (10 - len(waited)), *[2] * (2 + len(waited))]


def test_newcomers_join_when_they_have_waited_for_what_their_prefill_costs():
    assert Admission().num_admitted(5, num_running=0) == 5
    admission = Admission()
    waits = [admission.num_admitted(num_waiting, num_running=10) for num_waiting in (0, 1, 4, 9, 10, 12, 12)]
    assert waits == [0, 0, 0, 0, 0, 0, 12]
    assert admission.num_admitted(12, num_running=10) == 0


def test_an_idle_engine_waits_for_who_comes_shortly_after(start, prompts, monkeypatch):
    engine, calls, is_asked = start(), [], threading.Event()
    steps = num_rows_per_step(engine)

    async def run():
        loop = asyncio.get_running_loop()

        def ask():
            calls.append(asyncio.ensure_future(engine.generate(prompts[:2], Sampling(max_tokens=1))))

        def sleep(duration_s):
            if len(calls) == 1:
                loop.call_soon_threadsafe(ask)
                loop.call_soon_threadsafe(loop.call_soon, is_asked.set)
                is_asked.wait(60)

        monkeypatch.setattr(hf, "time", SimpleNamespace(sleep=sleep))
        ask()
        while len(calls) < 2 and not calls[0].done():
            await asyncio.sleep(0.001)
        await asyncio.gather(*calls)

    asyncio.run(run())
    assert steps == [4]


def test_rows_of_a_caller_who_is_gone_leave(start, prompts):
    engine = endless(start())

    async def run():
        asked = await under_way(engine, prompts)
        rows = list(engine._running)
        asked.cancel()
        assert isinstance(await failed_with(asked), asyncio.CancelledError)
        (completion,) = await engine.generate(prompts[:1], Sampling(max_tokens=3))
        await engine.pause()
        return rows, completion

    rows, completion = asyncio.run(run())
    assert len(completion.token_ids) == 3 and not engine._decoder.rows
    assert len(rows) >= 4 and all(len(row.token_ids) < LONG.max_tokens for row in rows)


def test_a_bad_prompt_fails_alone(start, prompts):
    engine = endless(start(max_model_len=64))
    broken = Prompt((Message("user", "see", (prompts[0].images[0][:200],)),))  # its size can be read, its pixels not

    async def ask():
        good, few = Sampling(max_tokens=4), Sampling(max_tokens=40)
        calls = [(prompts, good), ([prompts[0], broken], good), (prompts[:1], few), (prompts[1:], good)]
        return await asyncio.gather(*(engine.generate(*call) for call in calls), return_exceptions=True)

    good, broken_image, too_long, also_good = asyncio.run(ask())
    assert len(good) == 4 and len(also_good) == 3
    assert isinstance(broken_image, OSError)
    assert isinstance(too_long, ValueError) and "at most 24 tokens, its last turn has 32" in str(too_long)


def test_a_prompt_loses_turns_to_leave_room_for_the_response(start, path, game, prompts):
    turns = (Message("user", game.prompt, prompts[0].images), Message("assistant", "(0, 1)"), *prompts[1].messages)
    prompt, num = Prompt(turns), len(VLMProcessor(path).encode(Prompt(turns)))
    whole, cut = (
        generate(start(max_model_len=num + 8), [prompt], Sampling(max_tokens=max_tokens))[0] for max_tokens in (8, 9)
    )
    assert whole.num_cut_turns == 0 and len(whole.image_digests) == 2
    assert cut.num_cut_turns == 1 and cut.image_digests == whole.image_digests[1:]
    (alone,) = generate(start(), prompts[1:2], Sampling(max_tokens=9))
    np.testing.assert_array_equal(cut.prompt_token_ids, alone.prompt_token_ids)
    np.testing.assert_array_equal(cut.token_ids, alone.token_ids)


@pytest.mark.parametrize("fault", ["prefill", "join", "step"])
def test_an_error_fails_what_it_strikes_and_the_engine_goes_on(start, prompts, fault):
    engine = endless(start())

    def fail(*args):
        delattr(engine._decoder, fault)
        raise ArithmeticError("by chance")

    async def run():
        asked = await under_way(engine, prompts[:1])
        setattr(engine._decoder, fault, fail)
        newcomer = asyncio.ensure_future(engine.generate(prompts[1:], Sampling(max_tokens=2)))
        struck = await failed_with(asked if fault == "step" else newcomer)
        others_live = not asked.done()
        asked.cancel()
        await asyncio.gather(asked, newcomer, return_exceptions=True)
        return struck, others_live, await engine.generate(prompts, Sampling(max_tokens=2))

    struck, others_live, completions = asyncio.run(run())
    assert isinstance(struck, ArithmeticError) and others_live == (fault == "prefill")
    assert [len(c.token_ids) for c in completions] == [2] * 4


def state(path):
    return load_vlm(path, torch.float32).state_dict()


@pytest.mark.parametrize("weights", [OfferedWeights("nccl", None, {}, 0), "no/such/directory", {}])
def test_weights_of_another_model_change_nothing(start, prompts, weights):
    engine = start()
    before = generate(engine, prompts, Sampling(max_tokens=8))
    with pytest.raises(ValueError):
        asyncio.run(engine.load_weights(weights, 1))
    (after,) = generate(engine, prompts[:1], Sampling(max_tokens=8))
    assert after.weights_version == 0
    np.testing.assert_array_equal(after.token_ids, before[0].token_ids)


def test_weights_that_come_in_part_end_service_until_all_have_come(start, path, prompts):
    engine, weights = endless(start(in_flight="redo")), state(path)
    torn = dict(weights)
    torn[list(torn)[len(torn) // 2]] = torch.empty_like(torn[list(torn)[len(torn) // 2]], device="meta")

    async def run():
        asked = await under_way(engine, prompts)
        with pytest.raises(RuntimeError, match="only some weights came"):
            await engine.load_weights(torn, 1)
        assert isinstance(await failed_with(asked), NoWeightsError)
        assert await engine.weights_version() is None
        with pytest.raises(NoWeightsError):
            await engine.generate(prompts, Sampling(max_tokens=2))
        await engine.load_weights(path, 2)
        return await engine.generate(prompts, Sampling(max_tokens=2))

    assert {c.weights_version for c in asyncio.run(run())} == {2}


def test_loads_and_sleeps_come_in_the_order_of_their_calls(start, path, prompts):
    engine, weights = start(), state(path)

    async def run():
        await asyncio.gather(engine.load_weights(path, 1), engine.load_weights(weights, 2), engine.sleep())
        assert await engine.weights_version() == 2
        asked = asyncio.ensure_future(engine.generate(prompts, Sampling(max_tokens=1)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        await asyncio.gather(engine.sleep(), engine.load_weights(path, 3))
        return await asked

    assert {c.weights_version for c in asyncio.run(run())} == {3}


def test_closing_fails_what_is_under_way(start, prompts):
    engine = endless(start())

    async def run():
        running = await under_way(engine, prompts)
        engine.close()
        engine.close()
        assert isinstance(await failed_with(running), GenerationError)
        with pytest.raises(GenerationError, match="the engine is closed"):
            await engine.generate(prompts, LONG)

    asyncio.run(run())


def test_an_engine_that_nobody_holds_ends_its_thread(path, prompts):
    engine = make_engine("hf", path=path)
    generate(engine, prompts[:1], Sampling(max_tokens=1))
    (thread,) = engine._thread._threads
    del engine
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_options_are_checked(path):
    with pytest.raises(ValueError, match="max_batch_size must be at least 1, got 0"):
        make_engine("hf", path=path, max_batch_size=0)
    with pytest.raises(ValueError, match="in_flight must be one of finish, redo, got 'drop'"):
        make_engine("hf", path=path, in_flight="drop")
