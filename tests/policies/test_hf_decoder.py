"""Rows that come and go do not change what the others are told, in every kind of architecture."""

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    PaddleOCRVLProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from vlmgym_policies.engine import Message, Prompt, Sampling
from vlmgym_policies.engines._hf_cache import JoiningRows
from vlmgym_policies.engines._hf_decoder import Decoder, Row
from vlmgym_policies.engines._hf_sampling import draw
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt
from vlmgym_policies.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer

PATCH_PX = 14
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}


def qwen2_5_vl(tokenizer, ids):
    """Positions of three parts, windows in the tower, two heads that share keys."""
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [4, 6, 6]}
    return qwen(
        (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, tokenizer, ids),
        text={"num_hidden_layers": 2, "num_key_value_heads": 1, "rope_parameters": rope},
        vision={"window_size": 56, "fullatt_block_indexes": [1]},
    )


def qwen3_5(tokenizer, ids):
    """Positions of three parts, and layers with a recurrent state in place of keys and values."""
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
    state = {f"linear_{part}": 2 for part in ("num_key_heads", "num_value_heads")}
    state |= {f"linear_{part}": 16 for part in ("key_head_dim", "value_head_dim")}
    attention = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 32, "num_key_value_heads": 1}
    return qwen(
        (Qwen3_5Config, Qwen3_5ForConditionalGeneration, tokenizer, ids),
        text={"num_hidden_layers": 2, "rope_parameters": rope, **state, **attention},
        vision={"num_position_embeddings": 16},
    )


def qwen(made_of, text, vision):
    """With a processor that needs no torchvision."""
    config, architecture, tokenizer, ids = made_of
    sizes = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64}
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH_PX,
        temporal_patch_size=2,
        merge_size=2,
        min_pixels=(2 * PATCH_PX) ** 2,
        max_pixels=64 * (2 * PATCH_PX) ** 2,
    )
    model = architecture(
        config(
            text_config={**SIZES, "vocab_size": len(tokenizer), **text},
            vision_config={**sizes, "patch_size": PATCH_PX, **vision},
            image_token_id=ids["image_token"],
            video_token_id=ids["video_token"],
            vision_start_token_id=ids["vision_start_token"],
            vision_end_token_id=ids["vision_end_token"],
        )
    )
    return model, PaddleOCRVLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def llava(tokenizer, ids, text_config=LlamaConfig, **text):
    """Plain positions."""
    side_px = 4 * PATCH_PX
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZES, num_hidden_layers=3, image_size=side_px, patch_size=PATCH_PX),
        text_config=text_config(**SIZES, num_hidden_layers=2, vocab_size=len(tokenizer), **text),
        image_token_id=ids["image_token"],
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side_px}, crop_size={"height": side_px, "width": side_px}),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        image_token=SPECIAL_TOKENS["image_token"],
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return LlavaForConditionalGeneration(config), processor


def llava_sliding(tokenizer, ids):
    """Layers that see and keep eight tokens."""
    return llava(tokenizer, ids, MistralConfig, num_key_value_heads=2, sliding_window=8)


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl", "qwen3_5", "llava", "llava_sliding"])
def path(request, make_model, game, tmp_path_factory):
    if request.param == "qwen3_vl":
        return str(make_model(0))
    tokenizer = train_tokenizer([game.prompt], ["<answer>(0, 1) (2, 3)</answer>"])
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = globals()[request.param](tokenizer, ids)
    model.generation_config.eos_token_id = ids["eos_token"]
    model.generation_config.pad_token_id = ids["pad_token"]
    folder = tmp_path_factory.mktemp("models") / request.param
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


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


@pytest.fixture(scope="module")
def prompts(game):
    """Of different lengths: a picture, none, two turns with pictures, a picture."""
    pictures = [make_prompt("", game.render(game.mid_game(seed))).images for seed in range(3)]
    turns = (
        Message("user", game.prompt, pictures[1]),
        Message("assistant", "(0, 1)"),
        Message("user", "?", pictures[2]),
    )
    return [
        make_prompt(game.prompt, game.render(game.mid_game(3))),
        Prompt((Message("user", "no picture"),)),
        Prompt(turns),
        Prompt((Message("user", "x", pictures[0]),)),
    ]


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
