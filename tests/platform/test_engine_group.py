"""Engines that come, go, hang and refuse, as actors that a test controls."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from vlmgym import engine_group
from vlmgym.engine_group import EngineGroup
from vlmgym.weights import Push, load_outcomes

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class FakeEngine:
    """`faults` is a folder; a file in it makes the engines of one slot misbehave until it is removed."""

    def __init__(self, index, faults):
        self.index, self.faults, self.version = index, Path(faults), None
        if self.has("start"):
            raise OSError("no memory")
        while self.has("slow"):
            time.sleep(0.05)

    def has(self, fault):
        return (self.faults / f"{fault}-{self.index}").exists()

    async def load_weights(self, version):
        if self.has("refuse"):
            raise ValueError("weights must have checksum 1, got 2")
        self.version = version

    async def weights_version(self):
        return self.version

    async def sleep(self):
        self.version = None

    async def hang(self):
        time.sleep(60)

    async def close(self):
        (self.faults / f"closed-{self.index}").touch()


@pytest.fixture
def engines(ray_session, tmp_path):
    """A group of two engines; the learners' version is `engines.version`."""
    actor = ray.remote(num_cpus=0)(FakeEngine)
    state = SimpleNamespace(version=0, pushed=[], faults=tmp_path, groups=[])

    def push(handles):
        state.pushed.append(len(handles))
        return Push(state.version, load_outcomes([h.load_weights.remote(state.version) for h in handles], 30.0))

    def start():
        state.groups.append(EngineGroup(2, lambda index: actor.remote(index, str(tmp_path)), push, 20.0))
        return state.groups[-1]

    state.start = start
    yield state
    for group in state.groups:
        group.stop()


def kill(handle):
    """Ray's own call returns before the actor is gone."""
    ray.kill(handle)
    with pytest.raises(ray.exceptions.RayActorError):
        for _ in range(100):
            ray.get(handle.weights_version.remote())
            time.sleep(0.05)


def versions(group):
    return ray.get([handle.weights_version.remote() for handle in group.serving])


def until_complete(group):
    deadline = time.monotonic() + 20
    while not group.complete:
        assert time.monotonic() < deadline
        group.refresh()
        time.sleep(0.05)


def test_all_engines_get_the_weights_and_end_with_the_group(engines):
    group = engines.start()
    engines.version = 3
    assert group.sync() == 3 and group.complete and versions(group) == [3, 3]
    engines.version = 4
    assert group.sync() == 4 and versions(group) == [4, 4] and group.num_replaced == 0
    group.stop()
    assert {path.name for path in engines.faults.iterdir()} == {"closed-0", "closed-1"}


def test_a_lost_engine_is_replaced_while_the_other_serves(engines):
    group = engines.start()
    group.sync()
    (engines.faults / "slow-0").touch()
    lost, other = group.serving
    kill(lost)
    group.refresh()
    assert group.serving == (other,)
    engines.version = 1
    assert group.sync() == 1 and versions(group) == [1]
    (engines.faults / "slow-0").unlink()
    until_complete(group)
    assert versions(group) == [1, 1] and lost not in group.serving and group.num_replaced == 1
    assert engines.pushed == [2, 1, 1]


def test_where_all_are_lost_the_run_waits_for_one(engines):
    group = engines.start()
    group.sync()
    before = group.serving
    for handle in before:
        kill(handle)
    group.refresh()
    assert group.serving and not set(group.serving) & set(before)
    until_complete(group)


def test_an_engine_that_hangs_is_replaced(engines, monkeypatch):
    monkeypatch.setattr(engine_group, "PROBE_S", 2.0)
    group = engines.start()
    group.sync()
    hung, other = group.serving
    hung.hang.remote()
    group.refresh()
    assert other in group.serving and hung not in group.serving and group.num_replaced == 1
    until_complete(group)


def test_an_engine_that_refuses_weights_does_not_serve_and_is_asked_again(engines):
    group = engines.start()
    group.sync()
    (engines.faults / "refuse-1").touch()
    engines.version = 1
    group.sync()
    assert versions(group) == [1] and not group.complete
    (engines.faults / "refuse-1").unlink()
    group.refresh()
    assert versions(group) == [1, 1] and group.num_replaced == 0


def test_an_engine_that_always_refuses_stops_the_run_with_its_reason(engines):
    group = engines.start()
    group.sync()
    (engines.faults / "refuse-1").touch()
    engines.version = 1
    group.sync()
    group.refresh()
    with pytest.raises(RuntimeError, match=r"engine 1 failed 3 times, last: .*must have checksum 1, got 2"):
        group.refresh()


def test_an_engine_that_cannot_start_stops_the_run_at_once(engines):
    (engines.faults / "start-1").touch()
    with pytest.raises(RuntimeError, match="engine 1 did not start: OSError: no memory"):
        engines.start().sync()


def test_none_in_time_stops_the_run(engines):
    group = engines.start()
    group.sync()
    group._restart_timeout_s = 1.0
    for index, handle in enumerate(group.serving):
        (engines.faults / f"slow-{index}").touch()
        kill(handle)
    with pytest.raises(RuntimeError, match="no engine came back within 1 s"):
        group.refresh()
    for index in range(2):
        (engines.faults / f"slow-{index}").unlink()


def test_sleeping_engines_serve_again_with_the_next_weights(engines):
    group = engines.start()
    group.sync()
    group.sleep()
    assert versions(group) == [None, None]
    engines.version = 1
    group.sync()
    assert versions(group) == [1, 1]
