"""Tiny random models of the architectures that are trained, with processors that need nothing but Pillow.

Their own processors may need torchvision, for videos; PaddleOCR-VL's does the same for pictures.
"""

from collections.abc import Sequence
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
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from vlmgym_policies.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer

PATCH_PX = 14
QWEN_PATCHES: dict[str, int] = {"patch_size": PATCH_PX, "temporal_patch_size": 2, "merge_size": 2}


def qwen_image_processor() -> Qwen2VLImageProcessorPil:
    side_px = 2 * PATCH_PX
    return Qwen2VLImageProcessorPil(**QWEN_PATCHES, min_pixels=side_px**2, max_pixels=64 * side_px**2)


def make_qwen2_5_vl(path: Path, prompts: Sequence[str], processor: Any = None, **text_config: Any) -> Path:
    """A random Qwen2.5-VL of 0.3 M parameters: window and full attention in the tower, untied output layer."""
    tokenizer = train_tokenizer(prompts, ["<answer>(0, 1) (2, 3)</answer>"])
    processor = processor(tokenizer) if processor else _picture_processor(tokenizer)
    ids = token_ids(tokenizer)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "bos_token_id": ids["bos_token"],
        "eos_token_id": ids["eos_token"],
        "pad_token_id": ids["pad_token"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [4, 6, 6]},
    }
    config = Qwen2_5_VLConfig(
        text_config={**text, **text_config},
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": PATCH_PX,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_start_token"],
        vision_end_token_id=ids["vision_end_token"],
        tie_word_embeddings=False,
    )
    return save(Qwen2_5_VLForConditionalGeneration, config, processor, path)


def make_llava(path: Path, prompts: Sequence[str]) -> Path:
    """A random LLaVA of 0.3 M parameters: a CLIP tower and a Llama."""
    tokenizer = train_tokenizer(prompts, ["<answer>(0, 1) (2, 3)</answer>"])
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
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**layers, image_size=side_px, patch_size=PATCH_PX, projection_dim=64),
        text_config=LlamaConfig(
            **layers,
            vocab_size=len(tokenizer),
            max_position_embeddings=1024,
            bos_token_id=ids["bos_token"],
            eos_token_id=ids["eos_token"],
            pad_token_id=ids["pad_token"],
            tie_word_embeddings=False,
        ),
        image_token_id=ids["image_token"],
        image_token_index=ids["image_token"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    return save(LlavaForConditionalGeneration, config, processor, path)


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
