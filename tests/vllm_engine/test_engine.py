"""What the vLLM engine adds to the contract: weights change under load, bad requests fail alone, processes end."""

import asyncio
import os

import numpy as np
import psutil
import pytest
import torch

from vlmgym_policies.engine import Message, Prompt, Sampling, make_engine
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt

pytestmark = pytest.mark.vllm

GREEDY = Sampling(temperature=0, max_tokens=24)
MAX_MODEL_LEN = 256


@pytest.fixture(scope="module")
def engine(make_model, start_engine):
    return start_engine(make_model(0), max_model_len=MAX_MODEL_LEN)


@pytest.fixture
def prompts(game):
    return [make_prompt(game.prompt, game.render(state), state) for state in map(game.mid_game, range(6))]


def expected_tokens(path, prompts):
    completions = asyncio.run(make_engine("hf", path=str(path)).generate(prompts, GREEDY))
    return [c.token_ids.tolist() for c in completions]


def test_requests_around_a_push_are_answered_by_the_weights_they_are_tagged_with(engine, make_model, prompts):
    expected = {1: expected_tokens(make_model(0), prompts), 2: expected_tokens(make_model(1), prompts)}
    assert expected[1] != expected[2]

    async def run():
        await engine.load_weights(str(make_model(0)), 1)
        calls = [asyncio.ensure_future(engine.generate(prompts, GREEDY))]
        await asyncio.sleep(0.05)
        push = asyncio.ensure_future(engine.load_weights(str(make_model(1)), 2))
        while not push.done():
            calls.append(asyncio.ensure_future(engine.generate(prompts, GREEDY)))
            await asyncio.sleep(0.05)
        calls.append(asyncio.ensure_future(engine.generate(prompts, GREEDY)))
        await push
        return await asyncio.gather(*calls)

    answers = asyncio.run(run())
    versions = [{c.weights_version for c in completions} for completions in answers]
    assert versions[0] == {1} and versions[-1] == {2} and all(len(tags) == 1 for tags in versions)
    for completions in answers:
        assert [c.token_ids.tolist() for c in completions] == expected[completions[0].weights_version]


def test_siblings_of_a_group_draw_apart_and_again_the_same(engine, prompts):
    draw = Sampling(max_tokens=8, seed=3)
    group = asyncio.run(engine.generate([prompts[0]] * 8, draw))
    assert len({tuple(c.token_ids.tolist()) for c in group}) == 8
    again = asyncio.run(engine.generate([prompts[0]] * 8, draw))
    assert [c.token_ids.tolist() for c in group] == [c.token_ids.tolist() for c in again]


def test_weights_of_another_model_change_nothing(engine, make_model, prompts):
    asyncio.run(engine.load_weights(str(make_model(0)), 5))
    with pytest.raises(ValueError, match="unknown name nonsense"):
        asyncio.run(engine.load_weights({"nonsense": torch.zeros(1)}, 6))
    assert asyncio.run(engine.weights_version()) == 5
    completions = asyncio.run(engine.generate(prompts, GREEDY))
    assert [c.token_ids.tolist() for c in completions] == expected_tokens(make_model(0), prompts)


def test_a_paused_engine_takes_weights_and_stays_paused(engine, make_model, prompts):
    async def run():
        await engine.pause()
        asked = asyncio.ensure_future(engine.generate(prompts[:1], GREEDY))
        await engine.load_weights(load_vlm(str(make_model(1)), torch.float32).state_dict(), 8)
        await asyncio.sleep(0.2)
        assert not asked.done()
        await engine.resume()
        return await asked

    assert asyncio.run(run())[0].weights_version == 8


def test_a_cancelled_caller_leaves_whole_weights_behind(engine, make_model, prompts):
    async def run():
        for version in (20, 21, 22):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.load_weights(str(make_model(version % 2)), version), timeout=0.001)
        await engine.load_weights(str(make_model(1)), 23)
        return await engine.generate(prompts, GREEDY)

    completions = asyncio.run(run())
    assert [c.token_ids.tolist() for c in completions] == expected_tokens(make_model(1), prompts)
    assert {c.weights_version for c in completions} == {23}


def test_a_prompt_that_does_not_fit_fails_with_its_call_and_the_engine_lives(engine, make_model, prompts):
    long = Prompt((Message("user", "left " * 400),))
    num_tokens = len(VLMProcessor(str(make_model(0))).encode(long))
    with pytest.raises(ValueError, match=f"a prompt must have at most 232 tokens, its last turn has {num_tokens}"):
        asyncio.run(engine.generate([prompts[0], long], GREEDY))
    assert len(asyncio.run(engine.generate(prompts, GREEDY))) == len(prompts)


def test_a_long_chat_loses_first_turns_and_says_so(engine, make_model, prompts):
    asyncio.run(engine.load_weights(str(make_model(0)), 9))
    hf = make_engine("hf", path=str(make_model(0)), max_model_len=MAX_MODEL_LEN)
    turns = [Message("user", "Which? " * 5, prompt.images) for prompt in prompts]
    chat = [message for turn in turns for message in (turn, Message("assistant", "Left. " * 5))]
    long = Prompt((Message("system", "Play."), *chat[:-1]))
    (ours,) = asyncio.run(engine.generate([long], GREEDY))
    (theirs,) = asyncio.run(hf.generate([long], GREEDY))
    assert 0 < ours.num_cut_turns == theirs.num_cut_turns < len(turns)
    np.testing.assert_array_equal(ours.prompt_token_ids, theirs.prompt_token_ids)
    np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
    assert ours.image_digests == theirs.image_digests
    assert len(ours.image_digests) == len(turns) - ours.num_cut_turns


def test_sleep_needs_can_sleep_on_a_gpu_alone(engine, make_model, prompts, monkeypatch):
    with monkeypatch.context() as gpu:
        gpu.setattr(engine._process, "on_gpu", True)
        with pytest.raises(ValueError, match="can_sleep must be True for an engine that is to sleep on a GPU"):
            asyncio.run(engine.sleep())
    assert len(asyncio.run(engine.generate(prompts[:1], GREEDY))) == 1


def test_prompts_with_two_pictures_or_none(engine, make_model, prompts):
    both = Prompt((Message("user", "Which?", (*prompts[0].images, *prompts[1].images)),))
    none = Prompt((Message("user", "Which?"),))
    asyncio.run(engine.load_weights(str(make_model(0)), 9))
    hf = make_engine("hf", path=str(make_model(0)))
    for prompt in (both, none):
        (ours,) = asyncio.run(engine.generate([prompt], GREEDY))
        (theirs,) = asyncio.run(hf.generate([prompt], GREEDY))
        np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


def test_an_engine_in_a_killed_actor_leaves_no_process(make_model, ray_session, prompts, engine_processes):
    import ray

    from vlmgym.engine_actor import start_engine

    actor = start_engine("vllm", {"path": str(make_model(0)), "dtype": "float32"}, {"num_cpus": 0.5})
    weights = ray.put(load_vlm(str(make_model(1)), torch.float32).state_dict())
    ray.get(actor.load_weights.remote(weights, 3))
    completions = ray.get(actor.generate.remote(prompts, GREEDY))
    assert [c.token_ids.tolist() for c in completions] == expected_tokens(make_model(1), prompts)
    assert {c.weights_version for c in completions} == {3}
    started = engine_processes(psutil.Process(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))))
    assert started
    ray.kill(actor)
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []
