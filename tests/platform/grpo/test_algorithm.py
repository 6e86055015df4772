"""The whole loop on small real models: collect, update, sync, checkpoint, evaluate, fail and go on."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import ray
import torch
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback

from vlmgym.checkpoints import hugging_face_dir
from vlmgym.grpo.algorithm import GRPO
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.history import History
from vlmgym_policies.processing import load_vlm

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class CountingCallbacks(RLlibCallback):
    def on_episode_end(self, *, episode, metrics_logger, **kwargs):
        metrics_logger.log_value("groups_seen", 1, reduce="sum")

    def on_train_result(self, *, algorithm, result, **kwargs):
        result["seen_by_callback"] = True


class UnevenEnv(GameGroupEnv):
    """Pays the first branch, so that an untrained model has something to learn."""

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, {agent: 1.0 if agent == "branch_0" else -1.0 for agent in rewards}, *rest


class FailingEnv(GameGroupEnv):
    """The second one that is made raises in every step; the others work."""

    made = 0

    def __init__(self, config):
        super().__init__(config)
        FailingEnv.made += 1
        self.number = FailingEnv.made

    def step(self, actions):
        if self.number == 2:
            raise OSError("the board fell off the table")
        return super().step(actions)


class BrokenEnv(GameGroupEnv):
    def reset(self, **kwargs):
        raise OSError("no table")


@pytest.fixture
def build():
    """Builds algorithms and stops them after the test."""
    built = []

    def make(config):
        built.append(config.build_algo())
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()


def test_train_checkpoint_restore_evaluate(make_config, build, weights_of, tmp_path):
    config = make_config().environment(UnevenEnv).env_runners(num_env_runners=0)
    config.evaluation(evaluation_interval=2, evaluation_duration=3, evaluation_duration_unit="episodes")
    algorithm = build(config.callbacks(CountingCallbacks))
    first, second = algorithm.train(), algorithm.train()

    learner = second["learners"]["policy"]
    assert learner["logprob_mismatch_max"] < 1e-4
    assert np.isfinite(learner["loss"]) and learner["kl"] > 0 == first["learners"]["policy"]["kl"]
    assert second["env_runners"]["groups_seen"] == 4 and second["seen_by_callback"]
    assert second["env_runners"]["num_env_steps_sampled_lifetime"] == 24
    assert second["evaluation"]["env_runners"]["num_episodes"] == 3
    assert "evaluation" not in first or "env_runners" not in first["evaluation"]
    assert algorithm.weights_version == 2
    assert ray.get(algorithm.engines[0].weights_version.remote()) == 2
    assert {group.stats.weights_version for group in algorithm.played_groups} == {1}

    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    (trained,) = weights_of(algorithm)
    saved = load_vlm(str(hugging_face_dir(tmp_path / "checkpoint")), torch.float32).state_dict()
    assert all(np.array_equal(trained[name], value.numpy()) for name, value in saved.items())

    third = algorithm.train()
    restored = GRPO.from_checkpoint(path)
    try:
        assert all(np.array_equal(trained[name], value) for name, value in weights_of(restored)[0].items())
        assert restored.weights_version == 2 and restored.iteration == 2
        again = restored.train()
        assert (
            [g.group_id for g in restored.played_groups]
            == [g.group_id for g in algorithm.played_groups]
            == [8, 9, 10, 11]
        )
        assert again["learners"]["policy"]["loss"] == pytest.approx(third["learners"]["policy"]["loss"], abs=1e-4)
        assert again["env_runners"]["num_env_steps_sampled_lifetime"] == 36
    finally:
        restored.stop()


def test_two_learners_make_the_same_weights_as_one(make_config, build, weights_of):
    """Different prompts and response lengths, several micro-batches, three updates; gloo and DDP.

    The engines, one per learner, are colocated and sleep during each update.
    """
    weights = {}
    for num_learners in (0, 2):
        config = make_config().environment(UnevenEnv).env_runners(num_env_runners=0)
        config.engines(engine_placement="colocated", num_engines=max(1, num_learners))
        algorithm = build(config.learners(num_learners=num_learners))
        for _ in range(3):
            result = algorithm.train()
        assert result["learners"]["policy"]["logprob_mismatch_max"] < 1e-4
        weights[num_learners] = weights_of(algorithm)
        algorithm.stop()
    (alone,), (one, two) = weights[0], weights[2]
    for name, value in alone.items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.slow
def test_sharded_learners_in_the_whole_loop(make_config, build, weights_of, tmp_path):
    """Two updates from sampled groups by shards, pushed to the engine, saved during a third, restored into shards."""
    config = make_config().environment(UnevenEnv).env_runners(num_env_runners=0)
    config.learners(num_learners=2, parallelism="fsdp2", activation_checkpointing=True)
    algorithm = build(config)
    for _ in range(2):
        result = algorithm.train()
    assert result["learners"]["policy"]["logprob_mismatch_max"] < 1e-4
    trained, same = weights_of(algorithm)
    path = tmp_path / "checkpoint"
    algorithm.start_saving(str(path), pafs.LocalFileSystem(), (tmp_path / "written").touch)
    third = algorithm.train()
    algorithm.finish_saving()
    assert (tmp_path / "written").exists()
    saved = load_vlm(str(hugging_face_dir(path)), torch.float32).state_dict()
    assert all(np.array_equal(trained[name], value.numpy()) for name, value in saved.items())
    at_once = algorithm.save_to_path(str(tmp_path / "at_once"))
    later, _ = weights_of(algorithm)
    restored = build(config.copy())
    restored.restore_from_path(at_once)
    assert all(np.array_equal(later[name], value) for name, value in weights_of(restored)[0].items())
    restored.restore_from_path(str(path))
    for weights in (same, *weights_of(restored)):
        assert all(np.array_equal(trained[name], value) for name, value in weights.items())
    again = restored.train()
    assert again["learners"]["policy"]["loss"] == pytest.approx(third["learners"]["policy"]["loss"], abs=1e-4)


@pytest.mark.slow
def test_two_learners_make_the_same_weights_of_games_of_several_turns(make_config, build, weights_of):
    """Advantages normalised over the batch, one ratio per response, means over responses, a divergence as reward."""
    weights, losses = {}, {}
    for num_learners in (0, 2):
        config = make_config(num_turns=3).environment(UnevenEnv).env_runners(num_env_runners=0)
        config.prompting(history=History("all"))
        config.training(advantage="reinforce_pp_baseline", credit="turn", gamma=0.9, step_weight=0.5)
        config.training(loss="gspo", average_over="responses", kl="k1", kl_in="reward", micro_batch_tokens=512)
        algorithm = build(config.learners(num_learners=num_learners))
        for _ in range(3):
            learner = algorithm.train()["learners"]["policy"]
        assert learner["logprob_mismatch_max"] < 1e-4 and np.isfinite([learner["loss"], learner["kl"]]).all()
        weights[num_learners], losses[num_learners] = weights_of(algorithm), learner["loss"]
        algorithm.stop()
    assert losses[2] == pytest.approx(losses[0], abs=1e-4)
    (alone,), (one, two) = weights[0], weights[2]
    for name, value in alone.items():
        np.testing.assert_allclose(one[name], value, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(one[name], two[name])


def test_a_faulty_env_costs_its_group_alone(make_config, build):
    algorithm = build(make_config().environment(FailingEnv).env_runners(num_env_runners=0))
    result = algorithm.train()
    played = [group.group_id for group in algorithm.played_groups]
    dropped = result["num_groups_dropped_lifetime"]
    assert dropped == 1 and len(played) == len(set(played)) == 4 and max(played) == 4
    assert result["num_groups_requested_lifetime"] == 5
    assert result["learners"]["policy"]["num_sequences"] == 12


class HangingEnv(GameGroupEnv):
    """The second one that is made hangs in every step; the others work."""

    made = 0

    def __init__(self, config):
        super().__init__(config)
        HangingEnv.made += 1
        self.number = HangingEnv.made

    def step(self, actions):
        if self.number == 2:
            time.sleep(60.0)
        return super().step(actions)


def test_sampling_goes_on_while_learners_update_and_a_hung_step_costs_its_group(make_config, build):
    config = make_config().environment(HangingEnv).env_runners(num_env_runners=0)
    config.training(max_weights_lag=1, importance_cap=2.0).timeouts(env_step_timeout_s=6.0)
    algorithm = build(config)
    lags = []
    for _ in range(3):
        result = algorithm.train()
        lags.append(result["weights_version_lag"])
        ends = ("delivered", "dropped", "stale", "uninformative", "unfinished")
        counts = {name: result[f"num_groups_{name}_lifetime"] for name in ("requested", *ends)}
        assert counts["requested"] == sum(counts[name] for name in ends) and counts["unfinished"] <= 4
    assert lags[0] == 0 and max(lags) == 1
    assert counts["delivered"] == 12 and counts["dropped"] == 1
    assert np.isfinite(result["learners"]["policy"]["loss"])


def test_an_env_that_never_works_stops_the_run_with_its_reason(make_config, build):
    config = make_config().environment(BrokenEnv).env_runners(num_env_runners=0).training(max_dropped_groups=5)
    with pytest.raises(RuntimeError, match="groups were dropped in one iteration, last: OSError: no table"):
        build(config).train()


def test_a_killed_runner_and_a_killed_engine_are_replaced(make_config, build):
    algorithm = build(make_config())
    algorithm.train()
    algorithm.env_runner_group.foreach_env_runner(lambda runner: os._exit(1), local_env_runner=False)
    ray.kill(algorithm.engines[0], no_restart=False)
    result = algorithm.train()
    assert len(algorithm.played_groups) == 4
    assert result["learners"]["policy"]["num_sequences"] == 12
    assert {group.stats.weights_version for group in algorithm.played_groups} == {1}


@pytest.mark.slow
def test_runs_under_tune(make_config, tmp_path):
    tuner = tune.Tuner(
        GRPO,
        param_space=make_config().env_runners(num_env_runners=0).training(lr=tune.grid_search([1e-3])),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            name="tuned",
            stop={"training_iteration": 1},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )
    (result,) = tuner.fit()
    assert result.error is None and result.metrics["training_iteration"] == 1
    assert hugging_face_dir(Path(result.checkpoint.path)).is_dir()


@pytest.mark.parametrize("observation", ["text", "oracle"])
def test_a_board_that_is_told_is_learned_from_with_and_without_its_picture(make_config, observation):
    algorithm = make_config().prompting(observation=observation).training(lr=1e-3).build_algo()
    try:
        learners = algorithm.train()["learners"]["policy"]
        assert np.isfinite(learners["loss"]) and learners["logprob_mismatch_max"] < 1e-4
        (group, *_) = algorithm.played_groups
        prompt = next(iter(group.episode.agent_episodes.values())).get_observations(0)
        assert bool(prompt.images) is (observation == "oracle")
    finally:
        algorithm.stop()
