"""Makes a tiny vision-language model directory offline: a real architecture, random weights, a tokenizer of its own.

The architecture is Qwen3-VL (learned and rotary positions in the vision tower, 2x2 patch merger, decoder with query and
key norms, interleaved multimodal rotary positions and tied embeddings), which vLLM loads too. The sizes were chosen so
that it learns on one CPU core in minutes. Its own processor class needs torchvision, for videos; the directory names
the class of PaddleOCR-VL instead, which does the same for pictures and needs nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from vlmgym_policies.processing import quiet_transformers

SPECIAL_TOKENS = {
    "pad_token": "<|pad|>",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
VIDEO_CONFIG = "video_preprocessor_config.json"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PIECE = re.compile(r"(?:</?\w+>)+|\(\d+, \d+\)|[|\n]|[^|\n<>()]+|[<>()]")


@dataclass(frozen=True)
class TinySize:
    """Sizes of the tiny model. patch_px: side of a patch; a 2x2 block of patches is one token of the picture."""

    hidden_size: int = 64
    num_layers: int = 3
    num_heads: int = 4
    head_dim: int = 32
    intermediate_size: int = 192
    vision_hidden_size: int = 48
    vision_num_layers: int = 1
    vision_num_heads: int = 2
    vision_intermediate_size: int = 96
    patch_px: int = 8
    image_px: int = 64
    rope_theta: float = 1000.0
    init_std: float = 0.12
    position_init_std: float = 0.6


def make_tiny_vlm(
    path: str | Path, *, prompts: Iterable[str], responses: Iterable[str], seed: int, size: TinySize | None = None
) -> Path:
    """Writes config, weights, tokenizer, processor and chat template to `path`; returns it.

    prompts: instruction texts; each line becomes one token. responses: sample responses; each tag, coordinate, board
    cell and separator becomes one token. Any other text is spelled in bytes.
    """
    size = size or TinySize()
    path = Path(path)
    with quiet_transformers():
        return _make_tiny_vlm(path, train_tokenizer(prompts, responses), seed, size)


def _make_tiny_vlm(path: Path, tokenizer: PreTrainedTokenizerFast, seed: int, size: TinySize) -> Path:
    processor = PaddleOCRVLProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=size.patch_px,
            temporal_patch_size=2,
            merge_size=2,
            min_pixels=(2 * size.patch_px) ** 2,
            max_pixels=1024 * 1024,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    model = _random_model(size, tokenizer, seed)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    (path / VIDEO_CONFIG).write_text(json.dumps(_video_config(size), indent=2) + "\n")
    return path


def _video_config(size: TinySize) -> dict[str, Any]:
    """What vLLM reads when it makes the architecture's own processor, which also takes videos."""
    return {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "patch_size": size.patch_px,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }


def train_tokenizer(prompts: Iterable[str], responses: Iterable[str]) -> PreTrainedTokenizerFast:
    """A unigram tokenizer whose pieces are counted in the games' texts, with byte fallback for everything else."""
    counts = Counter(line for prompt in prompts for line in prompt.splitlines(keepends=True))
    counts.update(piece for response in responses for piece in _PIECE.findall(response))
    counts.update({"user\n": 1, "assistant\n": 1, "system\n": 1, "\n": 1})
    total = sum(counts.values())
    pieces = [(piece, log(count / total)) for piece, count in sorted(counts.items()) if len(piece.encode()) > 1]
    floor = min(score for _, score in pieces) - 10.0
    alphabet = [(f"<0x{byte:02X}>", floor) for byte in range(256)]
    vocabulary = [("<unk>", floor), *alphabet, *pieces]
    single = {piece for piece in counts if len(piece.encode()) == 1}
    vocabulary += [(piece, log(counts[piece] / total)) for piece in sorted(single)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    named = {name: SPECIAL_TOKENS[name] for name in ("pad_token", "bos_token", "eos_token")}
    media = {name: token for name, token in SPECIAL_TOKENS.items() if name not in named}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        **named,
        extra_special_tokens=media,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def _random_model(size: TinySize, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden_size,
            "intermediate_size": size.intermediate_size,
            "num_hidden_layers": size.num_layers,
            "num_attention_heads": size.num_heads,
            "num_key_value_heads": size.num_heads,
            "head_dim": size.head_dim,
            "max_position_embeddings": 4096,
            "initializer_range": size.init_std,
            "pad_token_id": ids["pad_token"],
            "bos_token_id": ids["bos_token"],
            "eos_token_id": ids["eos_token"],
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": size.rope_theta,
                "mrope_section": _mrope_section(size.head_dim),
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": size.vision_num_layers,
            "hidden_size": size.vision_hidden_size,
            "intermediate_size": size.vision_intermediate_size,
            "num_heads": size.vision_num_heads,
            "out_hidden_size": size.hidden_size,
            "patch_size": size.patch_px,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": (size.image_px // size.patch_px) ** 2,
            "deepstack_visual_indexes": [],
            "initializer_range": size.init_std,
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_start_token"],
        vision_end_token_id=ids["vision_end_token"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config).float()
        torch.nn.init.normal_(model.model.visual.pos_embed.weight, std=size.position_init_std)
    model.generation_config.eos_token_id = ids["eos_token"]
    model.generation_config.pad_token_id = ids["pad_token"]
    return model


def _mrope_section(head_dim: int) -> Sequence[int]:
    """Rotary pairs for time, height and width, which take turns: a third each, the rest to time."""
    pairs = head_dim // 2
    return [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]
