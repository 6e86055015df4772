"""Rows that come and go do not change what the others are told, in every kind of architecture."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from vlmgym_policies.engine import Sampling
from vlmgym_policies.engines._hf_cache import JoiningRows
from vlmgym_policies.engines._hf_decoder import Decoder, Row
from vlmgym_policies.engines._hf_sampling import draw
from vlmgym_policies.processing import VLMProcessor, load_vlm


@pytest.fixture(scope="module")
def model(path):
    return load_vlm(path, torch.float32).eval()


@pytest.fixture(scope="module")
def processor(path):
    return VLMProcessor(path)


@pytest.fixture
def decoder(model, processor):
    return Decoder(model, processor, torch.device("cpu"))


def row(processor, prompt, index=0, max_tokens=12, temperature=0.8):
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=4)
    return Row(processor.fit(prompt, 4096), sampling, sampling.uniforms(index))


def finish(decoder):
    while decoder.rows:
        decoder.step()


def check_logprobs(model, processor, rows):
    """Each row's are those of one plain forward pass over it alone."""
    for one in rows:
        num, ids = len(one.token_ids), np.concatenate([one.fitted.token_ids, one.token_ids]).astype(np.int32)
        with torch.no_grad():
            logits = model(**processor.collate([ids], [one.fitted.prompt.images], padding="right")).logits
        logits = logits[0, -num - 1 : -1] / one.sampling.temperature
        logits[:, list(processor.banned_token_ids)] = float("-inf")
        expected = logits.log_softmax(-1)[torch.arange(num), torch.tensor(one.token_ids)]
        np.testing.assert_allclose(one.logprobs, expected.numpy(), atol=1e-4)


def test_rows_of_one_batch(decoder, model, processor, prompts):
    rows = [row(processor, prompt, i, max_tokens=4 * i + 4) for i, prompt in enumerate(prompts)]
    decoder.join(decoder.prefill(rows))
    finish(decoder)
    check_logprobs(model, processor, rows)


def test_rows_that_join_late_or_leave(decoder, model, processor, prompts):
    rows = [row(processor, prompt, i, max_tokens=90) for i, prompt in enumerate([*prompts, *prompts])]
    unwanted = rows[1]
    decoder.join(decoder.prefill(rows[:3]))
    decoder.step([unwanted])
    for late in rows[3:] if decoder.can_join else ():
        for _ in range(7):
            decoder.step()
        decoder.join(decoder.prefill([late]))
    finish(decoder)
    assert len(unwanted.token_ids) == 1
    check_logprobs(model, processor, [one for one in rows if one.token_ids])


def test_equal_prompts_are_read_once(decoder, model, processor, prompts):
    rows = [row(processor, prompts[i], n) for n, i in enumerate((0, 2, 0, 0, 2))]
    prefilled = decoder.prefill(rows)
    assert len(prefilled.logits) == 2 and prefilled.sources.tolist() == [0, 1, 0, 0, 1]
    decoder.join(prefilled)
    finish(decoder)
    for shared, (n, i) in zip(rows, enumerate((0, 2, 0, 0, 2)), strict=True):
        alone = row(processor, prompts[i], n)
        decoder.join(decoder.prefill([alone]))
        finish(decoder)
        assert alone.token_ids == shared.token_ids
    assert len({tuple(r.token_ids) for r in rows}) == 5


def test_only_full_attention_lets_rows_join(path, decoder, processor, prompts):
    decoder.join(decoder.prefill([row(processor, prompts[0])]))
    assert decoder.can_join == (not path.endswith(("llava_sliding", "qwen3_5")))
    finish(decoder)
    assert decoder.can_join


def test_cached_rows_keep_their_tokens_whoever_comes_and_goes():
    """300 random changes against a list of rows; the i-th token of row r has keys of value r + i / 1000."""
    rng = np.random.default_rng(0)
    rows: list[list[float]] = []
    cache, num_made = None, 0
    for _ in range(300):
        kind = rng.choice(["join", "keep", "token", "token", "token"]) if rows else "join"
        if kind == "join":
            lengths = rng.integers(1, rng.choice([10, 120]), size=2)
            made = [[num_made + n + i / 1000 for i in range(length)] for n, length in enumerate(lengths)]
            sources = rng.integers(0, 2, size=rng.integers(1, 4)).tolist()
            prefilled = DynamicCache()
            states = torch.tensor([[0.0] * (lengths.max() - len(one)) + one for one in made])[:, None, :, None]
            prefilled.update(states.expand(2, 2, -1, 3), -states.expand(2, 2, -1, 3), 0)
            if rows:
                cache.join(prefilled, torch.tensor(sources))
            else:
                cache = JoiningRows(prefilled, torch.tensor(sources))
            rows += [[*made[source]] for source in sources]
            num_made += 2
        elif kind == "keep":
            order = rng.permutation(len(rows))[: rng.integers(1, len(rows) + 1)].tolist()
            rows = [rows[i] for i in order]
            cache.keep(order)
        else:
            for one in rows:
                one.append(one[0] + len(one) / 1000)
            cache.add_column()
            cache.trim(max(map(len, rows)))
            assert cache.width == max(map(len, rows))
            added = torch.tensor([one[-1] for one in rows])[:, None, None, None].expand(-1, 2, 1, 3)
            keys, values = cache.states.update(added, -added, 0)
            for one, key, value in zip(rows, keys, values, strict=True):
                expected = torch.tensor([0.0] * (cache.width - len(one)) + one)[None, :, None].expand(2, -1, 3)
                torch.testing.assert_close(key, expected)
                torch.testing.assert_close(value, -expected)


def test_draws_follow_the_distribution():
    """20,000 draws from (0.1, 0.6, 0.3) with the second token banned: 0.25 and 0.75."""
    num = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(num))
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).repeat(num, 1)
    picked, logprobs = draw(logits, torch.ones(num), uniforms, banned_token_ids=torch.tensor([1]))
    shares = torch.bincount(picked, minlength=3) / num
    assert shares[1] == 0
    assert abs(float(shares[0]) - 0.25) < 0.02
    np.testing.assert_allclose(logprobs[picked == 0], np.log(0.25), atol=1e-6)


def test_each_row_has_its_temperature():
    """From (0.2, 0.8): at 2 the square roots, which are 1 : 2; at 0 the argmax, with its probability at 1."""
    logits = torch.log(torch.tensor([[0.2, 0.8]])).repeat(4, 1)
    temperatures, uniforms = torch.tensor([1.0, 1.0, 2.0, 0.0]), torch.tensor([0.1, 0.5, 0.3, 0.1]).double()
    picked, logprobs = draw(logits, temperatures, uniforms, torch.tensor([], dtype=torch.int64))
    assert picked.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(logprobs.exp(), [0.2, 0.8, 1 / 3, 0.8], atol=1e-6)
