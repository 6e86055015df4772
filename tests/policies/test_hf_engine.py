"""What the HF engine samples is what the model defines."""

import asyncio

import numpy as np
import pytest
import torch

from vlmgym_policies.engine import Sampling, make_engine
from vlmgym_policies.engines.hf import SeededSampler
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt


def scored(model, processor, prompt, completion, temperature):
    """Log-probabilities of a completion by one plain forward pass, banned tokens removed."""
    ids = np.concatenate([completion.prompt_token_ids, completion.token_ids])
    inputs = processor.collate([ids], [prompt.images], padding="right")
    with torch.no_grad():
        logits = model(**inputs).logits[0, len(completion.prompt_token_ids) - 1 : -1].float() / temperature
    logits[:, list(processor.banned_token_ids)] = float("-inf")
    return logits.log_softmax(-1)[torch.arange(len(completion.token_ids)), torch.tensor(completion.token_ids).long()]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_those_of_a_plain_forward_pass(make_model, game, temperature):
    path = str(make_model(0))
    processor, model = VLMProcessor(path), load_vlm(path, torch.float32).eval()
    prompts = [make_prompt(game.prompt, game.render(game.mid_game(s))) for s in range(4)]
    engine = make_engine("hf", path=path)
    completions = asyncio.run(engine.generate(prompts, Sampling(temperature=temperature, max_tokens=20, seed=1)))
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = scored(model, processor, prompt, completion, temperature).numpy()
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_greedy_takes_the_argmax_of_each_step(make_model, game):
    path = str(make_model(0))
    processor, model = VLMProcessor(path), load_vlm(path, torch.float32).eval()
    prompt = make_prompt(game.prompt, game.render(game.mid_game(0)))
    (completion,) = asyncio.run(make_engine("hf", path=path).generate([prompt], Sampling(temperature=0, max_tokens=8)))
    ids = np.concatenate([completion.prompt_token_ids, completion.token_ids])
    with torch.no_grad():
        logits = model(**processor.collate([ids], [prompt.images], padding="right")).logits[0]
    logits[:, list(processor.banned_token_ids)] = float("-inf")
    best = logits[len(completion.prompt_token_ids) - 1 : -1].argmax(-1).numpy()
    np.testing.assert_array_equal(completion.token_ids, best)


def test_draws_follow_the_distribution():
    """20,000 draws from (0.1, 0.6, 0.3) with the second token banned: 0.25 and 0.75."""
    rows = 20_000
    sampler = SeededSampler([Sampling(max_tokens=1, seed=4)] * rows, range(rows), banned=[1])
    scores = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).repeat(rows, 1)
    picked = sampler(torch.zeros(rows, 1), scores).argmax(-1)
    shares = torch.bincount(picked, minlength=3) / rows
    assert shares[1] == 0
    assert abs(float(shares[0]) - 0.25) < 0.02
    _, logprobs = sampler.drawn()
    np.testing.assert_allclose(logprobs[picked == 0], np.log(0.25), atol=1e-6)


def test_waiting_requests_share_a_batch(make_model, game, monkeypatch):
    from vlmgym_policies.engines import hf

    sizes = []
    complete = hf.complete
    monkeypatch.setattr(
        hf, "complete", lambda m, p, requests, v: sizes.append(len(requests)) or complete(m, p, requests, v)
    )
    engine = make_engine("hf", path=str(make_model(0)), max_batch_size=8)
    prompt = make_prompt(game.prompt, game.render(game.mid_game(0)))

    async def ask_all():
        return await asyncio.gather(*(engine.generate([prompt], Sampling(max_tokens=2, seed=i)) for i in range(12)))

    assert len(asyncio.run(ask_all())) == 12
    assert sizes == [8, 4]


def test_a_bad_request_fails_alone_and_the_engine_lives(make_model, game):
    engine = make_engine("hf", path=str(make_model(0)))
    prompt = make_prompt(game.prompt, game.render(game.mid_game(0)))
    with pytest.raises(RuntimeError):
        asyncio.run(engine.load_weights({"nonsense": torch.zeros(1)}, 1))
    assert asyncio.run(engine.weights_version()) == 0
    assert len(asyncio.run(engine.generate([prompt], Sampling(max_tokens=2)))) == 1
