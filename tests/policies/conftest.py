"""A tiny model of every kind of architecture, and prompts that differ in length and pictures."""

import pytest
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
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

from vlmgym_policies.engine import Message, Prompt
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


@pytest.fixture(scope="session", params=["qwen3_vl", "qwen2_5_vl", "qwen3_5", "llava", "llava_sliding"])
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


@pytest.fixture(scope="session")
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
