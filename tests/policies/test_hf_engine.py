"""What the HF engine samples is what the model defines, whoever comes, goes or fails beside it."""

import asyncio
import gc
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vlmgym_policies.engine import (
    GenerationError,
    Message,
    NoWeightsError,
    OfferedWeights,
    Prompt,
    Sampling,
    make_engine,
)
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


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_those_of_a_plain_forward_pass(start, path, prompts, temperature):
    completions = generate(start(), prompts, Sampling(temperature=temperature, max_tokens=20, seed=1))
    for prompt, completion in zip(prompts, completions, strict=True):
        logprobs = (next_logits(path, prompt, completion) / temperature).log_softmax(-1)
        tokens = torch.tensor(completion.token_ids).long()[:, None]
        np.testing.assert_allclose(completion.logprobs, logprobs.gather(1, tokens)[:, 0], atol=1e-4)


def test_greedy_takes_the_argmax_of_each_step(start, path, prompts):
    (completion,) = generate(start(), prompts[:1], Sampling(temperature=0, max_tokens=8))
    logits = next_logits(path, prompts[0], completion)
    np.testing.assert_array_equal(completion.token_ids, logits.argmax(-1))
    np.testing.assert_allclose(completion.logprobs, logits.log_softmax(-1).max(-1).values, atol=1e-4)


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
        calls = [engine.generate(prompts[:1], Sampling(max_tokens=2 + 3 * (i % 2), seed=i)) for i in range(12)]
        return await asyncio.gather(*calls)

    assert [len(c.token_ids) for (c,) in asyncio.run(ask_all())] == [2, 5] * 6
    assert steps == [8, 8, 8, 8, 6, 2, 2]


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
    Image.open(io.BytesIO(broken.images[0]))

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


def test_weights_of_another_model_change_nothing(start, path, prompts):
    engine, weights = start(), state(path)
    before = generate(engine, prompts[:1], Sampling(max_tokens=8))
    name = min(weights)
    wrong = [
        {name: weights[name]},
        weights | {"nonsense": torch.zeros(1)},
        weights | {name: torch.zeros(3)},
        weights | {name: None},
        OfferedWeights("nccl", None, {}, 0),
        "no/such/directory",
    ]
    for offered in wrong:
        with pytest.raises(ValueError):
            asyncio.run(engine.load_weights(offered, 1))
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


def test_loads_come_in_the_order_of_their_calls(start, path, make_model, prompts):
    other = str(make_model(1))
    engine, sampling = start(), Sampling(temperature=0, max_tokens=8)

    async def run():
        await asyncio.gather(engine.load_weights(state(path), 1), engine.load_weights(other, 2))
        return await engine.generate(prompts, sampling)

    expected = generate(make_engine("hf", path=other), prompts, sampling)
    for got, wanted in zip(asyncio.run(run()), expected, strict=True):
        assert got.weights_version == 2
        np.testing.assert_array_equal(got.token_ids, wanted.token_ids)


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


@pytest.mark.gpu
def test_sleep_gives_the_memory_of_the_gpu_back(start, path, prompts):
    engine = start(device="cuda")
    expected = generate(engine, prompts, Sampling(temperature=0, max_tokens=8))
    awake_bytes = torch.cuda.memory_allocated()
    asyncio.run(engine.sleep())
    assert torch.cuda.memory_allocated() < awake_bytes / 10
    asyncio.run(engine.load_weights(path, 1))
    for got, wanted in zip(generate(engine, prompts, Sampling(temperature=0, max_tokens=8)), expected, strict=True):
        np.testing.assert_array_equal(got.token_ids, wanted.token_ids)


def test_options_are_checked(path):
    with pytest.raises(ValueError, match="max_batch_size must be at least 1, got 0"):
        make_engine("hf", path=path, max_batch_size=0)
    with pytest.raises(ValueError, match="in_flight must be one of finish, redo, got 'drop'"):
        make_engine("hf", path=path, in_flight="drop")
