"""The tiny model is a model directory like any other."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt


@pytest.fixture(scope="module")
def processor(make_model):
    return VLMProcessor(str(make_model(0)))


def test_loads_by_auto_classes_without_torchvision(make_model):
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from transformers import AutoProcessor, AutoModelForImageTextToText\n"
        f"AutoProcessor.from_pretrained({str(make_model(0))!r})\n"
        f"AutoModelForImageTextToText.from_pretrained({str(make_model(0))!r})\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, timeout=120)


def test_prompt_and_board_cost_few_tokens(processor, game):
    state = game.mid_game(0)
    prompt_ids = processor.encode(make_prompt(game.prompt, game.render(state)))
    text = Demonstrator(game, {"solver": 1.0}).demonstrate(state, np.random.default_rng(0))
    assert (prompt_ids == processor.image_token_id).sum() == 12
    assert len(prompt_ids) <= 12 + 20
    assert len(processor.spell_response(text).token_ids) <= 40


def test_demonstrations_read_back_exactly(processor, game):
    demonstrator = Demonstrator(game, {"solver": 1.0})
    for seed in range(20):
        text = demonstrator.demonstrate(game.mid_game(seed), np.random.default_rng(seed))
        ids, spans = processor.spell_response(text)
        assert processor.decode(ids) == text
        assert ids[-1] in processor.eos_token_ids
        assert len(spans) == len(ids)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=("Cs",))))
def test_any_text_survives_byte_fallback(processor, text):
    assert processor.tokenizer.decode(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_same_seed_same_weights(make_model):
    one, same, other = (load_vlm(str(make_model(seed)), torch.float32).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_picture_reaches_the_logits(make_model, processor, game):
    model = AutoModelForImageTextToText.from_pretrained(make_model(0)).eval()
    prompts = [make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(2)]
    inputs = processor.collate([processor.encode(p) for p in prompts], [p.images for p in prompts], padding="left")
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_chat_template_is_saved(make_model):
    loaded = AutoProcessor.from_pretrained(make_model(0))
    text = loaded.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
