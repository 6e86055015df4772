"""Decides what is known of a model before it is loaded: that it exists, and its shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from vlmgym.job import JobError
from vlmgym.settings import ModelSettings


class LayerShape(NamedTuple):
    """The layers of a language model or a vision tower. query_size, kv_size: heads times their size.

    gated: the feed-forward network is a gated one. joint_qkv: one product makes queries, keys and values, and attention
    works on a picture at a time.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    query_size: int
    kv_size: int
    gated: bool
    rms_norm: bool
    head_norms: bool
    joint_qkv: bool

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the layer's products, by the last part of their name."""
        h, i, q, kv = self.hidden_size, self.intermediate_size, self.query_size, self.kv_size
        if self.joint_qkv:
            attention = {"qkv": (h, 3 * h), "proj": (h, h)}
        else:
            attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        if self.gated:
            return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}
        return attention | {"linear_fc1": (h, i), "linear_fc2": (i, h)}


class ModelShape(NamedTuple):
    """What memory depends on. num_params counts tied weights once.

    patch_px: side of a patch; patch_values: numbers of one; merge: so many patches, squared, are a token.
    """

    num_params: int
    num_vision_params: int
    vocab_size: int
    text: LayerShape
    vision: LayerShape
    patch_px: int
    patch_values: int
    merge: int


def _qwen2_5_vl(
    num_params: int, num_vision_params: int, vocab_size: int, text: tuple[int, int, int, int], vision_intermediate: int
) -> ModelShape:
    """text: layers, width, inside of the feed-forward network, keys and values."""
    num_layers, hidden_size, intermediate_size, kv_size = text
    return ModelShape(
        num_params,
        num_vision_params,
        vocab_size,
        LayerShape(num_layers, hidden_size, intermediate_size, hidden_size, kv_size, True, True, False, False),
        LayerShape(32, 1280, vision_intermediate, 1280, 1280, True, True, False, True),
        patch_px=14,
        patch_values=3 * 2 * 14 * 14,
        merge=2,
    )


PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(
        3_754_622_976, 668_684_288, 151_936, (36, 2048, 11_008, 256), vision_intermediate=3420
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(
        8_292_166_656, 676_550_144, 152_064, (28, 3584, 18_944, 512), vision_intermediate=3420
    ),
    "Qwen/Qwen2.5-VL-32B-Instruct": _qwen2_5_vl(
        33_452_718_336, 688_841_984, 152_064, (64, 5120, 27_648, 1024), vision_intermediate=3456
    ),
    "Qwen/Qwen2.5-VL-72B-Instruct": _qwen2_5_vl(
        73_410_777_344, 704_573_696, 152_064, (80, 8192, 29_568, 1024), vision_intermediate=3456
    ),
}
"""Shapes known without a download."""


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
    tower = vision_tower(model)
    return ModelShape(
        num_params=sum(parameter.numel() for parameter in model.parameters()),
        num_vision_params=sum(parameter.numel() for parameter in tower.parameters()),
        vocab_size=config.get_text_config().vocab_size,
        text=_text_layers(config.get_text_config(), model),
        vision=_vision_layers(config.vision_config, tower),
        patch_px=config.vision_config.patch_size,
        patch_values=_patch_values(config.vision_config),
        merge=getattr(config.vision_config, "spatial_merge_size", 1),
    )


def _text_layers(config: Any, model: Any) -> LayerShape:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return LayerShape(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        query_size=config.num_attention_heads * head_size,
        kv_size=kv_heads * head_size,
        gated=True,
        rms_norm=True,
        head_norms=any(name.endswith("self_attn.q_norm.weight") for name, _ in model.named_parameters()),
        joint_qkv=False,
    )


def _vision_layers(config: Any, tower: Any) -> LayerShape:
    names = {name.rpartition(".")[0].rpartition(".")[2] for name, _ in tower.named_parameters()}
    num_layers = getattr(config, "depth", None) or config.num_hidden_layers
    return LayerShape(
        num_layers,
        config.hidden_size,
        config.intermediate_size,
        query_size=config.hidden_size,
        kv_size=config.hidden_size,
        gated="gate_proj" in names,
        rms_norm=not any(name.endswith("norm1.bias") for name, _ in tower.named_parameters()),
        head_norms=False,
        joint_qkv="qkv" in names,
    )


def _patch_values(config: Any) -> int:
    channels = getattr(config, "in_channels", None) or config.num_channels
    return int(channels * getattr(config, "temporal_patch_size", 1) * config.patch_size**2)
