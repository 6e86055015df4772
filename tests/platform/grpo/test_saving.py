"""Saving while training goes on, giving an iteration up, and steps that are skipped."""

import sys
import threading

import numpy as np
import pyarrow.fs as pafs
import pytest
import ray
import torch
from fsspec.implementations.local import LocalFileSystem

from vlmgym.checkpoints import hugging_face_dir
from vlmgym.grpo.collector import Interrupted
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.processing import load_vlm

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class UnevenEnv(GameGroupEnv):
    """Pays the first branch, so that an untrained model has something to learn."""

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, {agent: 1.0 if agent == "branch_0" else -1.0 for agent in rewards}, *rest


class WorthlessEnv(UnevenEnv):
    """The rewards of one start state in a while are no numbers."""

    number = 0

    def reset(self, **kwargs):
        WorthlessEnv.number += 1
        self.is_worthless = WorthlessEnv.number == 6
        return super().reset(**kwargs)

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, {agent: float("nan") if self.is_worthless else r for agent, r in rewards.items()}, *rest


class GatedFiles(LocalFileSystem):
    """A disk on which no file of a learner's tensors is opened before the gate is open."""

    protocol = "gated"
    cachable = False
    gate = threading.Event()
    error: OSError | None = None

    def _open(self, path, mode="rb", **kwargs):
        if "shards" in path and "w" in mode:
            assert GatedFiles.gate.wait(120)
            if GatedFiles.error is not None:
                raise GatedFiles.error
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def gated(monkeypatch):
    monkeypatch.setattr(GatedFiles, "gate", threading.Event())
    monkeypatch.setattr(GatedFiles, "error", None)
    return pafs.PyFileSystem(pafs.FSSpecHandler(GatedFiles()))


@pytest.fixture
def algorithm(make_config):
    algorithm = make_config().environment(UnevenEnv).env_runners(num_env_runners=0).build_algo()
    yield algorithm
    algorithm.stop()


def tensors(learner_state):
    (optimizer,) = learner_state["optimizer"].values()
    return [value for entry in optimizer["state"]["state"].values() for value in entry.values()]


def test_training_goes_on_while_a_checkpoint_is_written(algorithm, weights_of, gated, tmp_path):
    algorithm.train()
    (weights,) = weights_of(algorithm)
    moments = tensors(algorithm.learner_group.get_state()["learner"])
    written = threading.Event()
    algorithm.start_saving(str(tmp_path / "checkpoint"), gated, written.set)
    second = algorithm.train()
    assert not written.is_set()
    (later,) = weights_of(algorithm)
    assert not all(np.array_equal(weights[name], later[name]) for name in weights)
    GatedFiles.gate.set()
    algorithm.finish_saving()
    assert written.is_set()
    saved = load_vlm(str(hugging_face_dir(tmp_path / "checkpoint")), torch.float32).state_dict()
    assert all(np.array_equal(weights[name], value.numpy()) for name, value in saved.items())
    algorithm.restore_from_path(str(tmp_path / "checkpoint"))
    assert algorithm.weights_version == algorithm.iteration == 1
    assert all(map(torch.equal, moments, tensors(algorithm.learner_group.get_state()["learner"])))
    again = algorithm.train()
    assert again["learners"]["policy"]["loss"] == pytest.approx(second["learners"]["policy"]["loss"], abs=1e-4)


def test_what_keeps_a_checkpoint_from_being_written_is_raised(algorithm, gated, tmp_path):
    GatedFiles.error = OSError("no space left")
    written = threading.Event()
    algorithm.start_saving(str(tmp_path / "checkpoint"), gated, written.set)
    GatedFiles.gate.set()
    with pytest.raises(RuntimeError, match="failed on learner 0: OSError: no space left"):
        algorithm.finish_saving()
    assert not written.is_set()
    algorithm.finish_saving()


def test_an_iteration_that_is_given_up_is_done_again_after_a_restore(algorithm, weights_of, tmp_path):
    algorithm.train()
    (before,) = weights_of(algorithm)
    stop = threading.Event()
    algorithm.interrupt_on(stop)
    stop.set()
    with pytest.raises(Interrupted):
        algorithm.train()
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    stop.clear()
    result = algorithm.train()
    groups = [group.group_id for group in algorithm.played_groups]
    algorithm.restore_from_path(path)
    (restored,) = weights_of(algorithm)
    assert all(np.array_equal(before[name], restored[name]) for name in before)
    again = algorithm.train()
    assert [group.group_id for group in algorithm.played_groups] == groups == [4, 5, 6, 7]
    assert again["num_groups_requested_lifetime"] == result["num_groups_requested_lifetime"] == 8
    assert again["learners"]["policy"]["loss"] == pytest.approx(result["learners"]["policy"]["loss"], abs=1e-4)


def test_all_learners_skip_a_step_that_is_not_finite_for_one(make_config, weights_of):
    config = make_config().environment(WorthlessEnv).env_runners(num_env_runners=0).learners(num_learners=2)
    algorithm = config.build_algo()
    try:
        algorithm.train()
        before = weights_of(algorithm)
        skipped = algorithm.train()
        after = weights_of(algorithm)
        third = algorithm.train()
        last = weights_of(algorithm)
    finally:
        algorithm.stop()
    assert skipped["learners"]["num_skipped_updates"] == third["learners"]["num_skipped_updates"] == 1
    for name in before[0]:
        assert np.array_equal(before[0][name], after[0][name]) and np.array_equal(after[0][name], after[1][name])
        assert np.isfinite(last[0][name]).all() and np.array_equal(last[0][name], last[1][name])
    assert not all(np.array_equal(after[0][name], last[0][name]) for name in last[0])
