"""One learner, two with copies and two with shards make the same weights, whatever each of them has to learn from.

The model is a tiny Qwen2.5-VL that sees pictures. What the learners learn from differs in number, length and pictures.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from ray import cloudpickle
from small_learners import Batch, draw, make_config, make_learner, together, update

from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym_policies.processing import load_vlm

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def learn(rank: int, config: GRPOConfig, shares: list[list[Batch]]) -> tuple[dict[str, np.ndarray], list[float]]:
    """shares: per update and learner. Returns the weights, and the norms of the gradients."""
    learner = make_learner(config)
    norms = []
    for share in shares:
        result = update(learner, share[rank])
        norms.append(float(result[POLICY_ID]["gradient_norm"].peek()))
    weights = learner.module[POLICY_ID].unwrapped().weights()
    return {name: value.numpy() for name, value in weights.items()}, norms


@pytest.fixture(scope="module")
def alone(qwen2_5_vl: Path, shares: list[list[Batch]]) -> tuple[dict[str, np.ndarray], list[float]]:
    return learn(0, make_config(qwen2_5_vl, 0, "ddp"), together(shares))


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_two_learners_make_the_weights_that_one_makes(pair, alone, qwen2_5_vl, shares, parallelism):
    (one, norms), (two, same_norms) = pair(learn, make_config(qwen2_5_vl, 2, parallelism), shares)
    assert norms == same_norms == pytest.approx(alone[1], rel=1e-4)
    assert max(norms) > 0.5, "the gradients are clipped"
    for name, value in alone[0].items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(one[name], two[name])


def test_an_output_layer_tied_to_the_embeddings_is_one_in_shards_too(pair, make_model, game):
    """Of an odd number of tokens, so that the shards of the two learners differ in size."""
    path = make_model(0)
    config = load_vlm(str(path), torch.float32).config.get_text_config()
    assert config.tie_word_embeddings and config.vocab_size % 2 == 1
    shares = [[draw(path, game, 2 * step, [3, 9]), draw(path, game, 2 * step + 1, [5])] for step in range(2)]
    expected, norms = learn(0, make_config(path, 0, "ddp"), together(shares))
    (one, found), _ = pair(learn, make_config(path, 2, "fsdp2"), shares)
    assert found == pytest.approx(norms, rel=1e-4)
    for name, value in expected.items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)


def without_pictures(records: Batch) -> Batch:
    """Whose sampler saw other pictures: the learner drops them, and learns nothing from these records."""
    return [record._replace(image_digests=(b"another",)) for record in records]


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_micro_batches_without_pictures_on_one_learner_keep_the_others_waiting_for_nothing(
    pair, qwen2_5_vl, shares, parallelism
):
    """One learner has pictures throughout; the other has none at first, then none in its first micro-batches."""
    (five, three), (more, rest) = shares[0], shares[1]
    shares = [[five, without_pictures(three)], [more, without_pictures(rest[:2]) + rest[2:]]]
    expected, norms = learn(0, make_config(qwen2_5_vl, 0, "ddp"), together(shares))
    (one, found), _ = pair(learn, make_config(qwen2_5_vl, 2, parallelism), shares, deadline_s=60.0)
    assert found == pytest.approx(norms, rel=1e-4)
    for name, value in expected.items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": True, "offload_optimizer": True, "offload_reference": True},
        {"train_vision": False},
    ],
    ids=["saving_memory", "frozen_tower"],
)
def test_shards_that_save_memory_make_the_same_weights(pair, qwen2_5_vl, shares, options):
    frozen = {name: value for name, value in options.items() if name == "train_vision"}
    expected, _ = learn(0, make_config(qwen2_5_vl, 0, "ddp", **frozen), together(shares[:2]))
    (one, _), _ = pair(learn, make_config(qwen2_5_vl, 2, "fsdp2", **options), shares[:2])
    for name, value in expected.items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)


def learn_with_adapters(rank: int, config: GRPOConfig, shares: list[list[Batch]]) -> tuple[Any, set[str]]:
    learner = make_learner(config)
    for share in shares:
        update(learner, share[rank])
    module = learner.module[POLICY_ID].unwrapped()
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: value.numpy() for name, value in module.weights().items()}, trained


def test_adapters_train_in_shards_as_they_do_whole(pair, qwen2_5_vl, shares):
    lora = {"rank": 4, "alpha": 8.0}
    alone = make_config(qwen2_5_vl, 0, "ddp", lora=lora)
    expected, trained = learn_with_adapters(0, alone, together(shares[:2]))
    assert trained and all(".lora_" in name for name in trained)
    (one, _), _ = pair(learn_with_adapters, make_config(qwen2_5_vl, 2, "fsdp2", lora=lora), shares[:2])
    start = dict(load_network_weights(qwen2_5_vl))
    assert expected.keys() == start.keys()
    assert any(np.abs(value - start[name]).max() > 1e-4 for name, value in expected.items())
    for name, value in expected.items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)


def load_network_weights(path: Path) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_vlm(str(path), torch.float32).state_dict().items()}


def step_in_bfloat16(rank: int, config: GRPOConfig, share: list[Batch]) -> tuple[set[Any], float]:
    """The dtypes of what the optimizer has, and the smallest part of a layer's weights that one step moved."""
    learner = make_learner(config)
    network = learner.module[POLICY_ID].unwrapped().policy
    before = {name: value.clone() for name, value in network.state()}
    update(learner, share[rank])
    after = dict(network.state())
    moved = [float((after[name] != before[name]).float().mean()) for name in after if "layers.0.mlp" in name]
    optimizer = learner.get_optimizer(POLICY_ID)
    tensors = [value for state in optimizer.state.values() for value in (state["exp_avg"], state["exp_avg_sq"])]
    return {tensor.dtype for tensor in [*tensors, *network.parameters()]}, min(moved)


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_masters_in_float32_move_by_small_steps_of_bfloat16_learners(pair, qwen2_5_vl, shares, parallelism):
    config = make_config(qwen2_5_vl, 2, parallelism, dtype="bfloat16").training(lr=1e-6)
    for dtypes, moved in pair(step_in_bfloat16, config, shares[0]):
        assert dtypes == {torch.float32} and moved > 0.9


def meet_infinity(rank: int, config: GRPOConfig, shares: list[list[Batch]]) -> tuple[int, bool]:
    learner = make_learner(config)
    module = learner.module[POLICY_ID].unwrapped()
    update(learner, shares[0][rank])
    before = module.weights()
    records = shares[1][rank]
    if rank == 1:
        records = [record._replace(advantages=record.advantages * np.inf) for record in records]
    result = update(learner, records)
    same = all(torch.equal(value, before[name]) for name, value in module.weights().items())
    return int(result["num_skipped_updates"].peek()) if "num_skipped_updates" in result else 0, same


def test_a_gradient_that_is_infinite_on_one_learner_is_skipped_by_all_and_counted_by_the_first(
    pair, qwen2_5_vl, shares
):
    assert pair(meet_infinity, make_config(qwen2_5_vl, 2, "fsdp2"), shares) == [(1, True), (0, True)]


def load_counted(rank: int, config: GRPOConfig) -> tuple[int, int, int]:
    """Bytes that the learner's networks have in all, that its largest tensor has, and most that lived at once."""
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # what threads make is not counted
    with LiveBytes() as bytes_:
        learner = make_learner(config)
    sizes = [each.numel() * each.element_size() for each in learner.module[POLICY_ID].unwrapped().parameters()]
    return sum(sizes), max(sizes), bytes_.peak


def test_a_learner_reads_its_shard_alone(pair, qwen2_5_vl, tmp_path):
    """Of files in bfloat16, as most are, so that what is trained is converted."""
    shutil.copytree(qwen2_5_vl, tmp_path, dirs_exist_ok=True)
    load_vlm(str(qwen2_5_vl), torch.bfloat16).save_pretrained(tmp_path)
    for whole, largest, peak in pair(load_counted, make_config(tmp_path, 2, "fsdp2")):
        assert whole / 2 < peak < whole / 2 + 2 * largest < 0.8 * whole, (whole, largest, peak)
