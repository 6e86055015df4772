"""One learner, two with copies and two with shards make the same weights, whatever each of them has to learn from.

The model is a tiny Qwen2.5-VL that sees pictures. What the learners learn from differs in number, length and pictures.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Text
from learner_pair import LearnerPair
from ray import cloudpickle
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from vlmgym.grpo.batching import SEQUENCES, object_array
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.learner import GRPOLearner
from vlmgym.grpo.sequences import TrainSequence
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.prompting import make_prompt

cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_UPDATES = 5
Batch = list[TrainSequence]


@pytest.fixture(scope="module")
def pair() -> Iterator[LearnerPair]:
    learners = LearnerPair()
    yield learners
    learners.close()


def make_config(path: Path, num_learners: int, parallelism: str, **options: Any) -> GRPOConfig:
    vlm = {name: options.pop(name) for name in ("dtype", "train_vision", "lora") if name in options}
    config = GRPOConfig().environment(env_config={"game": "shisen_sho", "level": "tiny", "group_size": 3})
    config.training(lr=1e-3, kl_coeff=0.05, micro_batch_tokens=192, grad_clip=0.5, num_groups_per_train_batch=2)
    return config.vlm(str(path), **vlm).learners(num_learners=num_learners, parallelism=parallelism, **options)


def make_learner(config: GRPOConfig) -> GRPOLearner:
    """As RLlib's learner group makes one."""
    spaces = {POLICY_ID: (Text(1), Text(1))}
    module_spec = config.get_multi_rl_module_spec(spaces=spaces)
    learner: GRPOLearner = config.learner_class(config=config, module_spec=module_spec)
    learner.build()
    return learner


def update(learner: GRPOLearner, records: Batch) -> Any:
    batch = MultiAgentBatch({POLICY_ID: SampleBatch({SEQUENCES: object_array(records)})}, env_steps=len(records))
    return learner.update(batch=batch, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 0})


def learn(rank: int, config: GRPOConfig, shares: list[list[Batch]]) -> tuple[dict[str, np.ndarray], list[float]]:
    """shares: per update and learner. Returns the weights, and the norms of the gradients."""
    learner = make_learner(config)
    norms = []
    for share in shares:
        result = update(learner, share[rank])
        norms.append(float(result[POLICY_ID]["gradient_norm"].peek()))
    weights = learner.module[POLICY_ID].unwrapped().weights()
    return {name: value.numpy() for name, value in weights.items()}, norms


def draw(path: Path, game: Any, seed: int, lengths: list[int]) -> Batch:
    """One sequence per length of a response, on boards of several sizes."""
    processor, rng = VLMProcessor(str(path)), np.random.default_rng(seed)
    words = np.setdiff1d(np.arange(processor.vocab_size), processor.banned_token_ids)
    records = []
    for index, length in enumerate(lengths):
        board = game.render(game.mid_game(100 * seed + index))
        prompt = make_prompt(game.prompt, board[: board.shape[0] // (1 + index % 2)])
        records.append(
            TrainSequence(
                prompt_ids=processor.encode(prompt),
                response_ids=rng.choice(words, length).astype(np.int32),
                old_logprobs=rng.normal(-6.0, 0.3, length).astype(np.float32),
                weights=np.ones(length, dtype=np.float32),
                advantages=np.full(length, rng.normal(), dtype=np.float32),
                turns=np.zeros(length, dtype=np.int32),
                denominator=float(length),
                images=prompt.images,
                image_digests=tuple(map(processor.image_digest, prompt.images)),
            )
        )
    return records


@pytest.fixture(scope="module")
def shares(qwen2_5_vl: Path, game: Any) -> list[list[Batch]]:
    """Groups of 5 and of 3, whose responses have other lengths in each update."""
    return [
        [draw(qwen2_5_vl, game, 2 * step, [3, 30, 7, 1, 12 + step]), draw(qwen2_5_vl, game, 2 * step + 1, [9, 2, 44])]
        for step in range(NUM_UPDATES)
    ]


def together(shares: list[list[Batch]]) -> list[list[Batch]]:
    return [[[record for batch in share for record in batch]] for share in shares]


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
    return int(result["num_skipped_updates"].peek()), same


def test_a_gradient_that_is_infinite_on_one_learner_is_skipped_by_all(pair, qwen2_5_vl, shares):
    assert pair(meet_infinity, make_config(qwen2_5_vl, 2, "fsdp2"), shares) == [(1, True), (1, True)]


def save_and_go_on(rank: int, config: GRPOConfig, shares: list[list[Batch]], path: str) -> tuple[str, Any]:
    """What a learner says that is asked for its state before it was gathered, and the weights after one update more."""
    learner = make_learner(config)
    update(learner, shares[0][rank])
    with pytest.raises(RuntimeError) as refusal:
        learner.get_state()
    learner.gather()
    if rank == 0:
        learner.save_to_path(path)
    learner.release()
    update(learner, shares[1][rank])
    weights = learner.module[POLICY_ID].unwrapped().weights()
    return str(refusal.value), {name: value.numpy() for name, value in weights.items()}


def restore_and_go_on(rank: int, config: GRPOConfig, shares: list[list[Batch]], path: str) -> Any:
    learner = make_learner(config)
    learner.restore_from_path(path)
    update(learner, shares[1][rank])
    return {name: value.numpy() for name, value in learner.module[POLICY_ID].unwrapped().weights().items()}


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["whole", "adapters"])
def test_what_shards_save_goes_on_in_shards_and_in_one_learner(pair, qwen2_5_vl, shares, tmp_path, lora):
    config, path = make_config(qwen2_5_vl, 2, "fsdp2", lora=lora), str(tmp_path / "learner")
    (refusal, expected), _ = pair(save_and_go_on, config, shares, path)
    assert "must be gathered" in refusal
    again, _ = pair(restore_and_go_on, config, shares, path)
    alone = restore_and_go_on(0, make_config(qwen2_5_vl, 0, "ddp", lora=lora), together(shares), path)
    for name, value in expected.items():
        np.testing.assert_allclose(again[name], value, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(alone[name], value, atol=1e-4, err_msg=name)
