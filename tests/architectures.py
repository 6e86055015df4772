"""Tiny random models of the architectures that are trained, with processors that need nothing but Pillow.

Their own processors may need torchvision, for videos; PaddleOCR-VL's does the same for pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from vlmgym_policies.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer

PATCH_PX = 14
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
ANSWER = "<answer>(0, 1) (2, 3)</answer>"
QWEN_PATCHES: dict[str, int] = {"patch_size": PATCH_PX, "temporal_patch_size": 2, "merge_size": 2}


def qwen_image_processor() -> Qwen2VLImageProcessorPil:
    side_px = 2 * PATCH_PX
    return Qwen2VLImageProcessorPil(**QWEN_PATCHES, min_pixels=side_px**2, max_pixels=64 * side_px**2)


def make_qwen2_5_vl(path: Path, prompts: Sequence[str], processor: Any = None, **text_config: Any) -> Path:
    """Positions of three parts, window and full attention in the tower, heads that share keys, untied output layer."""
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [4, 6, 6]}
    text = {"num_key_value_heads": 1, "tie_word_embeddings": False, "rope_parameters": rope, **text_config}
    vision = {"window_size": 56, "fullatt_block_indexes": [1]}
    classes = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    return _make_qwen(path, prompts, classes, text, vision, processor)


def make_qwen3_5(path: Path, prompts: Sequence[str]) -> Path:
    """Positions of three parts, and layers with a recurrent state in place of keys and values."""
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
    state = {f"linear_{part}": 2 for part in ("num_key_heads", "num_value_heads")}
    state |= {f"linear_{part}": 16 for part in ("key_head_dim", "value_head_dim")}
    attention = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 32, "num_key_value_heads": 1}
    classes = Qwen3_5Config, Qwen3_5ForConditionalGeneration
    return _make_qwen(
        path, prompts, classes, {"rope_parameters": rope, **state, **attention}, {"num_position_embeddings": 16}
    )


def _make_qwen(
    path: Path,
    prompts: Sequence[str],
    classes: tuple[Any, Any],
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    processor: Any = None,
) -> Path:
    """classes: of the configuration and of the model. processor: makes one of a tokenizer."""
    tokenizer = train_tokenizer(prompts, [ANSWER])
    ids = token_ids(tokenizer)
    config_class, architecture = classes
    sizes = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64}
    config = config_class(
        text_config={**SIZES, "num_hidden_layers": 2, **_vocabulary(tokenizer), **text},
        vision_config={**sizes, "patch_size": PATCH_PX, **vision},
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_start_token"],
        vision_end_token_id=ids["vision_end_token"],
        tie_word_embeddings=False,
    )
    return save(architecture, config, (processor or _picture_processor)(tokenizer), path)


def make_llava(path: Path, prompts: Sequence[str], text_config: Any = LlamaConfig, **text: Any) -> Path:
    """Plain positions: a CLIP tower and a Llama, or what `text_config` is of."""
    tokenizer = train_tokenizer(prompts, [ANSWER])
    ids = token_ids(tokenizer)
    side_px = 4 * PATCH_PX
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": side_px}, crop_size={"height": side_px, "width": side_px}),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        image_token=SPECIAL_TOKENS["image_token"],
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    layers = {**SIZES, "num_hidden_layers": 3}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**layers, image_size=side_px, patch_size=PATCH_PX, projection_dim=64),
        text_config=text_config(**layers, **_vocabulary(tokenizer), tie_word_embeddings=False, **text),
        image_token_id=ids["image_token"],
        image_token_index=ids["image_token"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    return save(LlavaForConditionalGeneration, config, processor, path)


def make_llava_sliding(path: Path, prompts: Sequence[str]) -> Path:
    """Layers that see and keep eight tokens."""
    return make_llava(path, prompts, MistralConfig, num_key_value_heads=2, sliding_window=8)


ARCHITECTURES: dict[str, Callable[[Path, Sequence[str]], Path]] = {
    "qwen2_5_vl": make_qwen2_5_vl,
    "qwen3_5": make_qwen3_5,
    "llava": make_llava,
    "llava_sliding": make_llava_sliding,
}
"""Makers of model directories, each with 0.3 M random parameters; Qwen3-VL is `vlmgym_policies.tiny`."""


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}


def save(architecture: Any, config: Any, processor: Any, path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architecture(config).float()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def _picture_processor(tokenizer: PreTrainedTokenizerFast) -> PaddleOCRVLProcessor:
    return PaddleOCRVLProcessor(qwen_image_processor(), tokenizer, chat_template=CHAT_TEMPLATE)


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """What a language model's configuration says of its tokens and positions."""
    ids = token_ids(tokenizer)
    named = {f"{name}_id": ids[name] for name in ("bos_token", "eos_token", "pad_token")}
    return {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, **named}
