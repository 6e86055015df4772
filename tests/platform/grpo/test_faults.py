"""A run in which everything breaks that can goes on, loses no group, and every completion bears the right version."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from vlmgym import engine_actor
from vlmgym.engine_actor import EngineActor
from vlmgym.grpo.batching import PROMPT_IDS, RESPONSE_IDS, RESPONSE_LOGPROBS, WEIGHTS_VERSION
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.processing import VLMProcessor, load_vlm

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def first_time(folder, fault):
    """Whether this fault has not happened yet."""
    try:
        (Path(folder) / fault).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class FaultyEnv(GameGroupEnv):
    """One step hangs, one raises, and one takes the runner's process with it; all others work."""

    def __init__(self, config):
        super().__init__({key: value for key, value in config.items() if key != "faults"})
        self.faults = config["faults"]

    def step(self, actions):
        steps = Path(self.faults) / "steps"
        with steps.open("a") as file:
            file.write("x")
        num_steps = steps.stat().st_size
        if num_steps > 5 and first_time(self.faults, "raised"):
            raise OSError("the board fell off the table")
        if num_steps > 20 and first_time(self.faults, "hung"):
            time.sleep(60.0)
        if num_steps > 30 and first_time(self.faults, "exited"):
            os._exit(1)
        return super().step(actions)


class Torn(Mapping):
    """Weights that cannot be read to their end."""

    def __init__(self, weights):
        self.weights = weights
        self.num_left = 3 * len(weights) // 2  # names and shapes are read once before

    def __getitem__(self, name):
        self.num_left -= 1
        if self.num_left < 0:
            raise OSError("the connection was lost")
        return self.weights[name]

    def __iter__(self):
        return iter(self.weights)

    def __len__(self):
        return len(self.weights)


class FaultyEngine(EngineActor):
    """Version 2 breaks off half-way the first time; the engine that takes version 3 first dies of it."""

    faults = ""

    async def load_weights(self, weights, version, checksum=None):
        if version == 2 and first_time(self.faults, "torn"):
            return await super().load_weights(Torn(weights), version)
        if version == 3 and first_time(self.faults, "died"):
            asyncio.get_running_loop().call_later(0.02, os._exit, 1)
        return await super().load_weights(weights, version, checksum)


@pytest.fixture
def build_faulty(make_config, tmp_path, monkeypatch):
    built = []

    def build(lag):
        FaultyEngine.faults = str(tmp_path)
        monkeypatch.setattr(engine_actor, "EngineActor", FaultyEngine)
        config = make_config(faults=str(tmp_path)).environment(FaultyEnv)
        config.training(max_weights_lag=lag, importance_cap=2.0 if lag else None, lr=1e-2)
        config.sampling(max_tokens=160)
        config.engines(num_engines=2, num_cpus_per_engine=0.25).timeouts(env_step_timeout_s=6.0)
        built.append(config.build_algo())
        return built[-1]

    yield build
    for algorithm in built:
        algorithm.stop()


def kill_when_busy(algorithm):
    """Kills the first engine as soon as it answers requests of the next iteration."""
    engine = algorithm.engines[0]
    threading.Timer(0.3, lambda: ray.kill(engine)).start()
    return engine


def weights_by_name(algorithm):
    weights = algorithm.learner_group.foreach_learner(lambda learner: learner.module["policy"].unwrapped().weights())
    return next(iter(weights)).get()


def worst_mismatch(algorithm, path, weights):
    """How far sampled log-probabilities are from those of the weights that their completion is tagged with."""
    model, processor = load_vlm(str(path), torch.float32), VLMProcessor(str(path))
    banned = list(processor.banned_token_ids)
    worst, versions = 0.0, set()
    for group in algorithm.played_groups:
        for branch in group.episode.agent_episodes.values():
            outputs = {name: values[0] for name, values in branch.extra_model_outputs.items()}
            versions.add(outputs[WEIGHTS_VERSION])
            model.load_state_dict(weights[outputs[WEIGHTS_VERSION]])
            ids = np.concatenate([outputs[PROMPT_IDS], outputs[RESPONSE_IDS]])
            inputs = processor.collate([ids], [branch.get_observations(0).images], padding="right")
            with torch.no_grad():
                logits = (
                    model(**inputs)
                    .logits[0, len(outputs[PROMPT_IDS]) - 1 : -1]
                    .index_fill(-1, torch.tensor(banned), float("-inf"))
                )
            taken = torch.tensor(outputs[RESPONSE_IDS], dtype=torch.int64)[:, None]
            logprobs = logits.log_softmax(-1).gather(1, taken)[:, 0].numpy()
            worst = max(worst, float(np.abs(logprobs - outputs[RESPONSE_LOGPROBS]).max()))
    return worst, versions


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_survives_every_fault_and_accounts_for_every_group(build_faulty, make_model, tmp_path, lag):
    algorithm = build_faulty(lag)
    weights, delivered = {0: weights_by_name(algorithm)}, []
    for iteration in range(6):
        killed = kill_when_busy(algorithm) if iteration == 1 else None
        result = algorithm.train()
        if killed is not None:
            assert killed not in algorithm.engines
        ends = ("delivered", "dropped", "stale", "uninformative", "unfinished")
        counts = {name: result[f"num_groups_{name}_lifetime"] for name in ("requested", "redone", *ends)}
        assert counts["requested"] == sum(counts[name] for name in ends)
        assert counts["delivered"] == 4 * (iteration + 1)
        delivered += [group.group_id for group in algorithm.played_groups]
        mismatch, versions = worst_mismatch(algorithm, make_model(0), weights)
        assert mismatch < 1e-4 and versions <= set(range(max(0, iteration - lag), iteration + 1))
        weights[algorithm.weights_version] = weights_by_name(algorithm)
    assert len(set(delivered)) == len(delivered) == 24
    happened = {path.name for path in tmp_path.iterdir()}
    assert {"raised", "hung", "exited", "torn", "died"} <= happened
    assert 1 <= counts["dropped"] <= 2 and counts["redone"] >= 1  # what raised and hung, unless its runner exited then
    assert result["num_engines_replaced_lifetime"] == 2
    assert algorithm.weights_version == 6 == len(weights) - 1
