"""Tiny models of further architectures, and vLLM engines that end with their tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from architectures import QWEN_PATCHES, make_llava, make_qwen2_5_vl, qwen_image_processor
from safetensors.torch import load_file, save_file

from vlmgym_policies.engine import make_engine
from vlmgym_policies.tiny import CHAT_TEMPLATE


@pytest.fixture(scope="session")
def qwen2_5_vl(tmp_path_factory: pytest.TempPathFactory, game: Any) -> Path:
    """With the processor that is its own, which vLLM wants."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    def processor(tokenizer: Any) -> Any:
        return Qwen2_5_VLProcessor(
            image_processor=qwen_image_processor(),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(**QWEN_PATCHES),
            chat_template=CHAT_TEMPLATE,
        )

    return make_qwen2_5_vl(tmp_path_factory.mktemp("models") / "qwen2_5_vl", [game.prompt], processor)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory, game: Any) -> Path:
    """Its tower's weights under the names that published models have, which vLLM knows."""
    path = make_llava(tmp_path_factory.mktemp("models") / "llava", [game.prompt])
    weights = load_file(path / "model.safetensors")
    weights = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


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
