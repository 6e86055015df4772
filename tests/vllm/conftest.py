"""Tiny models of further architectures, and vLLM engines that end with their tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from vlmgym_policies.engine import make_engine
from vlmgym_policies.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer

PATCH_PX = 14


@pytest.fixture(scope="session")
def qwen2_5_vl(tmp_path_factory: pytest.TempPathFactory, game: Any) -> Path:
    """A random Qwen2.5-VL of 0.3 M parameters: window and full attention in the tower, untied output layer."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    path = tmp_path_factory.mktemp("models") / "qwen2_5_vl"
    tokenizer = train_tokenizer([game.prompt], ["<answer>(0, 1) (2, 3)</answer>"])
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    sizes = {"patch_size": PATCH_PX, "temporal_patch_size": 2, "merge_size": 2}
    pixels = {"min_pixels": (2 * PATCH_PX) ** 2, "max_pixels": 64 * (2 * PATCH_PX) ** 2}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(**sizes, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=CHAT_TEMPLATE,
    )
    config = Qwen2_5_VLConfig(
        text_config={
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
        },
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
    save(Qwen2_5_VLForConditionalGeneration, config, processor, path)
    return path


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory, game: Any) -> Path:
    """A random LLaVA of 0.3 M parameters: a CLIP tower whose weights vLLM knows by other names, and a Llama."""
    path = tmp_path_factory.mktemp("models") / "llava"
    tokenizer = train_tokenizer([game.prompt], ["<answer>(0, 1) (2, 3)</answer>"])
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
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
    save(LlavaForConditionalGeneration, config, processor, path)
    weights = load_file(path / "model.safetensors")
    weights = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def save(architecture: Any, config: Any, processor: Any, path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config).float()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(path)
    processor.save_pretrained(path)


@pytest.fixture(scope="module")
def start_engine(engine_processes: Any) -> Iterator[Callable[..., Any]]:
    """Starts vLLM engines that end with the tests of a module, and leave no process behind."""
    engines: list[Any] = []
    others = set(engine_processes(psutil.Process()))

    def start(path: Path, **options: Any) -> Any:
        engines.append(make_engine("vllm", path=str(path), dtype="float32", block_size=32, **options))
        return engines[-1]

    yield start
    started = set(engine_processes(psutil.Process())) - others
    for engine in engines:
        engine.close()
    assert len(started) >= len(engines)
    assert [process for process in started if is_alive(process)] == []


@pytest.fixture(scope="session")
def engine_processes() -> Callable[[psutil.Process], list[psutil.Process]]:
    """Those below another process that vLLM started."""

    def find(parent: psutil.Process) -> list[psutil.Process]:
        return [child for child in parent.children(recursive=True) if "VLLM::" in " ".join(child.cmdline())]

    return find


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
