import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from vlmgym.job import Job, load_job
from vlmgym.model_source import PUBLISHED, ModelShape, check_model_exists, model_shape
from vlmgym.planning import Bundle, memory_estimate, placement, print_plan
from vlmgym.yaml12 import parse_yaml

WriteJob = Callable[..., Path]
SHAPE = ModelShape(num_params=1000, num_vision_params=200, num_layers=2, hidden_size=8, kv_size=4, vocab_size=16)
SMALL = [
    "learners.micro_batch_tokens=64",
    "sampling.max_tokens=1024",
    "engine.max_batch_size=3",
    "model={path: Qwen/Qwen2.5-VL-7B-Instruct, dtype: bfloat16, train_vision: false}",
]


def bytes_of(job: Job) -> dict[str, dict[str, float]]:
    return {
        memory.role: {name: gib * 2**30 for name, gib in memory.parts.items()} for memory in memory_estimate(job, SHAPE)
    }


def test_memory_by_hand(write_job: WriteJob) -> None:
    """2 bytes a weight, 800 trained. Layers 17 * 2 * 2 * 8 * 64; logits 4 * 5 * 16 * 64 / 2, as half of the tokens are
    responses (1024 of 2048). KV cache 2 * 2 * 2 * 4 * 2048 * 3."""
    assert bytes_of(load_job(write_job(), overrides=SMALL)) == {
        "learner": {
            "weights": 2000,
            "reference": 2000,
            "gradients": 1600,
            "moments": 3200,
            "activations": 34_816 + 10_240,
        },
        "engine": {"weights": 2000, "KV cache": 196_608},
    }


def test_no_reference_without_kl_and_twice_the_bytes_in_float32(write_job: WriteJob) -> None:
    job = load_job(write_job(), overrides=[*SMALL, "grpo.kl_coeff=0", "model.dtype=float32", "model.train_vision=true"])
    learner = bytes_of(job)["learner"]
    assert (learner["weights"], learner["reference"], learner["gradients"], learner["moments"]) == (4000, 0, 4000, 8000)


def test_placement_lists_every_actor(write_job: WriteJob) -> None:
    job = load_job(write_job("learners: {count: 3, num_cpus: 2, num_gpus: 1}\nengine: {replicas: 2, num_gpus: 0.5}"))
    assert placement(job) == [
        Bundle("learner", "learners.count", 3, 2.0, 1.0),
        Bundle("engine", "engine.replicas", 2, 1.0, 0.5),
        Bundle("env runner", "env_runners.count", 4, 1.0, 0.0),
    ]
    assert [bundle.role for bundle in placement(load_job(write_job()))] == ["engine", "env runner"]


def test_plan_prints_a_job_that_loads_and_what_it_needs(write_job: WriteJob) -> None:
    text = io.StringIO()
    job = load_job(write_job(), overrides=SMALL)
    print_plan(Console(file=text, width=80), job)
    resolved, plan = text.getvalue().split("\n\n", 1)
    assert parse_yaml(resolved) == job.model_dump(mode="json")
    assert "8.29 billion parameters in bfloat16" in plan


def test_plan_says_when_it_does_not_know(write_job: WriteJob) -> None:
    text = io.StringIO()
    print_plan(Console(file=text, width=200), load_job(write_job(), overrides=["model={path: some/model}"]))
    assert "unknown model size" in text.getvalue()


def test_shape_of_a_directory_counts_without_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    text = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": 64}
    vision = {"hidden_size": 8, "out_hidden_size": 16, "depth": 1, "num_heads": 2, "intermediate_size": 16}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    config.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_config(config)
    vision_params = sum(value.numel() for name, value in model.named_parameters() if "visual" in name)
    expected = ModelShape(model.num_parameters(), vision_params, 2, 16, 2 * 4, 64)
    assert model_shape(str(tmp_path)) == expected
    assert vision_params > 0


def test_published_shape_is_what_the_architecture_gives(tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLConfig

    text = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    text |= {"intermediate_size": 18_944, "vocab_size": 152_064}
    vision = {"hidden_size": 1280, "out_hidden_size": 3584, "depth": 32, "num_heads": 16, "intermediate_size": 3420}
    Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False).save_pretrained(tmp_path)
    assert model_shape(str(tmp_path)) == PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]


def test_a_directory_needs_no_hub(write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "config.json").write_text("{}")
    check_model_exists(load_job(write_job(), overrides=[f"model={{path: {tmp_path}}}"]).model)
    check_model_exists(load_job(write_job()).model)
