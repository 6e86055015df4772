"""Decides what is known of a model before it is loaded: that it exists, and its shape."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vlmgym.job import JobError
from vlmgym.settings import ModelSettings


class ModelShape(NamedTuple):
    """What memory depends on. num_params counts tied weights once."""

    num_params: int
    num_vision_params: int
    num_layers: int
    hidden_size: int
    kv_size: int
    vocab_size: int


PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelShape(3_754_622_976, 668_684_288, 36, 2048, 256, 151_936),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelShape(8_292_166_656, 676_550_144, 28, 3584, 512, 152_064),
    "Qwen/Qwen2.5-VL-32B-Instruct": ModelShape(33_452_718_336, 688_841_984, 64, 5120, 1024, 152_064),
    "Qwen/Qwen2.5-VL-72B-Instruct": ModelShape(73_410_777_344, 704_573_696, 80, 8192, 1024, 152_064),
}
"""Shapes known without a download. kv_size = key-value heads times head size; all other sizes by name."""


def check_model_exists(model: ModelSettings) -> None:
    """Asks the local cache, then the hub, for a model given by name; directories were checked with the job.

    Errors: JobError where neither has it.
    """
    if model.path is None or Path(model.path).is_dir():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model.path, "config.json"), str):
        return
    try:
        HfApi().model_info(model.path, timeout=10)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise JobError(f"model.path {model.path!r} is no directory, is not in the local cache, and {reason}") from error


def model_shape(path: str) -> ModelShape | None:
    """The shape of a model directory or a published model, without its weights; None where it is not known here."""
    if path in PUBLISHED:
        return PUBLISHED[path]
    if not Path(path).is_dir():
        return None
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vlmgym_policies.vlm_network import vision_tower

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return ModelShape(
        num_params=sum(parameter.numel() for parameter in model.parameters()),
        num_vision_params=sum(parameter.numel() for parameter in vision_tower(model).parameters()),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        kv_size=kv_heads * head_size,
        vocab_size=text.vocab_size,
    )
