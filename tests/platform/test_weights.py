"""A push from learners straight to engines: who is called when, who is told of a failure, when ranks connect anew."""

from types import SimpleNamespace

import pytest
import torch

from vlmgym import weights as weights_module
from vlmgym.weights import WeightPush
from vlmgym_policies.engine import OfferedWeights

TIMEOUT_S = 30.0


class Result:
    def __init__(self, value):
        self.ok, self._value = not isinstance(value, Exception), value

    def get(self):
        return self._value


class LearnerGroup:
    """`lost`: of learners that do not answer a call that is bounded."""

    def __init__(self, learners):
        self.learners, self.lost, self.timeouts = learners, set(), []

    def __len__(self):
        return len(self.learners)

    def foreach_learner(self, function, *, timeout_seconds=None):
        self.timeouts.append(timeout_seconds)
        for rank, learner in enumerate(self.learners):
            if timeout_seconds is not None and rank in self.lost:
                continue
            try:
                yield Result(function(learner))
            except Exception as error:
                yield Result(error)


class Sender:
    def __init__(self, run, rank):
        self.run, self.rank = run, rank

    def offer(self, weights, to, rank):
        assert weights == ({"weight": torch.tensor([[4.0]])} if rank == 0 else {})
        self.run.events.append(f"offer {self.rank}")
        self.run.members.append(to.members)
        assert to.workers_per_engine == 2
        return [OfferedWeights("nccl", None, {"engine": i}, 7) for i in range(to.num_engines)] if self.rank == 0 else []

    def send(self):
        self.run.events.append(f"send {self.rank}")
        if self.run.cannot_send and self.rank == 0:
            raise RuntimeError("the others were not ready")

    def release(self):
        self.run.events.append(f"release {self.rank}")


class Engine:
    def __init__(self, run, index):
        self.run, self.index, self.error = run, index, None
        self.load_weights = SimpleNamespace(remote=self.load)

    def load(self, offer, version):
        self.run.events.append(f"load {self.index}: {offer.update['engine']}, version {version}")
        return self


@pytest.fixture
def run(monkeypatch):
    """Two learners and three engines without processes."""
    state = SimpleNamespace(events=[], members=[], made=[], cannot_send=False)

    def make_sender(*arguments):
        state.made.append(arguments)
        return Sender(state, len(state.made) - 1)

    def load_outcomes(loads, timeout_s):
        assert timeout_s == TIMEOUT_S
        state.events.append("outcomes")
        return [engine.error for engine in loads]

    monkeypatch.setattr(weights_module, "make_sender", make_sender)
    monkeypatch.setattr(weights_module, "load_outcomes", load_outcomes)
    policy = SimpleNamespace(weights=lambda: iter([("weight", torch.tensor([[4.0]]))]))
    module = SimpleNamespace(policy=policy, model_config={"path": "a/path", "dtype": "bfloat16"})
    wrapped = SimpleNamespace(unwrapped=lambda: module)
    state.learners = LearnerGroup([SimpleNamespace(module={"policy": wrapped}, _weights_seq_no=5) for _ in range(2)])
    state.engines = [Engine(state, index) for index in range(3)]
    state.push = WeightPush(state.learners, "policy", "nccl", 2, TIMEOUT_S)
    return state


def test_engines_load_while_the_learners_send_and_then_these_let_go(run):
    assert run.push(run.engines[1:]) == (5, [None, None])
    assert run.events == [
        "offer 0",
        "offer 1",
        "load 1: 0, version 5",
        "load 2: 1, version 5",
        "send 0",
        "send 1",
        "outcomes",
        "release 0",
        "release 1",
    ]
    assert run.learners.timeouts == [None, 4 * TIMEOUT_S, None]


def test_a_learner_keeps_its_sender(run):
    for _ in range(2):
        run.push(run.engines)
    assert run.made == [("nccl", "a/path", "bfloat16", TIMEOUT_S)] * 2


def test_members_change_with_the_engines_and_after_a_failure(run):
    def pushed(engines):
        run.push(engines)
        assert run.members[-1] == run.members[-2]
        return run.members[-1]

    first = pushed(run.engines)
    assert pushed(list(run.engines)) == first
    replaced = pushed([*run.engines[:2], Engine(run, 2)])
    fewer = pushed(run.engines[:2])
    run.engines[0].error = ValueError("weights must have checksum 1, got 2")
    assert pushed(run.engines[:2]) == fewer
    run.engines[0].error = None
    anew = pushed(run.engines[:2])
    run.cannot_send = True
    assert pushed(run.engines[:2]) == anew
    run.cannot_send = False
    assert len({first, replaced, fewer, anew, pushed(run.engines[:2])}) == 5


def test_what_fails_on_an_engine_is_its_own(run):
    run.engines[1].error = error = ValueError("weights must have checksum 1, got 2")
    assert run.push(run.engines).errors == [None, error, None]
    assert run.events[-2:] == ["release 0", "release 1"]


def test_a_learner_that_could_not_send_is_well_and_engines_say_what_they_missed(run, caplog):
    run.cannot_send = True
    for engine in run.engines:
        engine.error = RuntimeError("not ready")
    assert [str(error) for error in run.push(run.engines).errors] == ["not ready"] * 3
    assert "weights were not sent: RuntimeError: the others were not ready" in caplog.text
    assert run.events[-2:] == ["release 0", "release 1"]


def test_a_learner_that_stays_blocked_is_given_up(run):
    run.learners.lost = {0}
    with pytest.raises(RuntimeError, match="1 of 2 learners did not give their weights within 120 s"):
        run.push(run.engines)


def test_a_learner_that_fails_to_offer_ends_the_push_before_any_engine_is_asked(run):
    run.learners.learners[1].module = {}
    with pytest.raises(RuntimeError, match="a learner failed to give its weights: 'policy'"):
        run.push(run.engines)
    assert run.events == ["offer 0"]
