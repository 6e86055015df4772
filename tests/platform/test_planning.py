import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from vlmgym.job import Job, load_job
from vlmgym.memory_plan import (
    Batch,
    LearnerSetup,
    activation_bytes,
    layer_bytes,
    logits_bytes,
    trained_params,
)
from vlmgym.model_source import PUBLISHED, LayerShape, ModelShape, check_model_exists, model_shape
from vlmgym.planning import Bundle, largest_batch, memory_estimate, placement, print_plan, smallest_gpu_gib
from vlmgym.yaml12 import parse_yaml
from vlmgym_policies.token_logprobs import CHUNK_LOGITS

WriteJob = Callable[..., Path]
TEXT = LayerShape(2, 8, 32, 8, 4, gated=True, rms_norm=True, head_norms=False, joint_qkv=False)
VISION = LayerShape(1, 4, 8, 4, 4, gated=False, rms_norm=False, head_norms=False, joint_qkv=True)
SHAPE = ModelShape(10_000, 2000, 16, TEXT, VISION, patch_px=4, patch_values=96, merge=2)
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
    """8000 trained in float32, 2000 frozen and the reference in 2 bytes; products by autocast from 2-byte copies.

    KV cache 2 * 2 * 2 * 4 * 2048 * 3.
    """
    memory = bytes_of(load_job(write_job(), overrides=SMALL))
    assert memory["engine"] == {"weights": 20_000, "KV cache": 196_608}
    learner = memory["learner"]
    kept = {"weights": 4 * 8000 + 2 * 2000, "reference": 20_000, "gradients": 32_000, "moments": 64_000}
    assert {name: learner[name] for name in kept} == kept
    assert learner["gathered"] == 16_000


def test_a_layer_by_hand() -> None:
    """In float32: norms 2 * 12 * 8, attention 4 * (16 + 8), feed-forward 16 * 32; in bfloat16 norms 2 * 8 * 8, and half
    of the others. The tower's: norms 2 * 8 * 4, attention 4 * 7 * 4, feed-forward 8 * 8."""
    assert layer_bytes(TEXT, 4, 4) == 192 + 96 + 512
    assert layer_bytes(TEXT, 2, 2) == 128 + 48 + 256
    assert layer_bytes(VISION, 4, 4) == 64 + 112 + 64


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    """10 tokens without a picture: 2 layers of 800 bytes a token, or their inputs of 32 and one layer less logits."""
    batch = Batch(num_tokens=10, num_scored=0, num_patches=0)
    plain, checkpointed = (
        activation_bytes(SHAPE, LearnerSetup("float32", activation_checkpointing=on), batch) for on in (False, True)
    )
    before_and_behind = 10 * (1 + 4 + 4) * 8
    assert plain == 2 * 10 * 800 + before_and_behind
    assert logits_bytes(SHAPE, LearnerSetup("float32"), batch) == 4 * 16 * 8
    assert checkpointed == 2 * 10 * 32 + 10 * 800 - 512 + before_and_behind


def test_logits_never_exist_at_once() -> None:
    huge = SHAPE._replace(vocab_size=200_000)
    few, many = (logits_bytes(huge, LearnerSetup("float32"), Batch(n, n, 0)) for n in (10, 100_000))
    assert few == 3 * 4 * 10 * 200_000 and many == 3 * 4 * CHUNK_LOGITS


def test_learners_with_shards_hold_a_part_each(write_job: WriteJob) -> None:
    sharded = [*SMALL, "model.train_vision=true", "learners={count: 4, parallelism: fsdp2, micro_batch_tokens: 64}"]
    memory = bytes_of(load_job(write_job(), overrides=sharded))["learner"]
    assert (memory["weights"], memory["gradients"], memory["moments"]) == (10_000, 10_000, 20_000)
    assert memory["reference"] == 5000
    offloaded = [*sharded, "learners.offload_optimizer=true", "learners.offload_reference=true"]
    assert (
        not {"weights", "gradients", "moments", "reference"}
        & bytes_of(load_job(write_job(), overrides=offloaded))["learner"].keys()
    )


def test_copies_exchange_gradients_in_buckets(write_job: WriteJob) -> None:
    copies = bytes_of(load_job(write_job(), overrides=[*SMALL, "learners={count: 2, micro_batch_tokens: 64}"]))
    assert copies["learner"]["gradients"] == 2 * 4 * 8000


def test_adapters_alone_are_trained_and_there_is_no_second_model(write_job: WriteJob) -> None:
    """Rank 2 on the text's layers: 2 * 2 * (16 + 12 + 12 + 16 + 40 + 40 + 40); on q_proj alone 2 * 2 * 16."""
    lora = LearnerSetup("bfloat16", train_vision=False, adapter_rank=2)
    assert trained_params(SHAPE, lora) == 704
    assert trained_params(SHAPE, lora._replace(adapted=("q_proj",))) == 64
    memory = bytes_of(load_job(write_job(), overrides=[*SMALL, "model.lora={rank: 2}"]))["learner"]
    assert memory["moments"] == 8 * 704 and "reference" not in memory
    assert memory["weights"] == 4 * 704 + 2 * 10_000


def test_no_reference_without_kl_and_all_in_float32(write_job: WriteJob) -> None:
    job = load_job(write_job(), overrides=[*SMALL, "grpo.kl_coeff=0", "model.dtype=float32", "model.train_vision=true"])
    learner = bytes_of(job)["learner"]
    assert (learner["weights"], learner["gradients"], learner["moments"]) == (40_000, 40_000, 80_000)
    assert "reference" not in learner and "gathered" not in learner


def test_a_full_micro_batch_has_the_pictures_of_the_game(write_job: WriteJob) -> None:
    job = load_job(write_job(), overrides=SMALL)
    game = job.mixture[0].make()
    height_px, width_px, _ = game.render(game.mid_game(0)).shape
    picture = (height_px // 8) * (width_px // 8)
    prompt = picture + len(game.prompt) / 4
    batch = largest_batch(job, SHAPE)
    assert batch.num_tokens == 64 and batch.num_patches == 4 * round(64 * picture / prompt)
    assert batch.num_scored == round(64 * 1024 / (prompt + 1024))


@pytest.mark.parametrize(("needed_gib", "size_gib"), [(1.0, 16), (14.4, 16), (14.5, 24), (72.0, 80), (300.0, None)])
def test_a_tenth_of_a_gpu_stays_free(needed_gib: float, size_gib: int | None) -> None:
    assert smallest_gpu_gib(needed_gib) == size_gib


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
    text_layers = LayerShape(2, 16, 32, 16, 2 * 4, gated=True, rms_norm=True, head_norms=False, joint_qkv=False)
    vision_layers = LayerShape(1, 8, 16, 8, 8, gated=True, rms_norm=True, head_norms=False, joint_qkv=True)
    expected = ModelShape(
        model.num_parameters(), vision_params, 64, text_layers, vision_layers, patch_px=14, patch_values=1176, merge=2
    )
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
