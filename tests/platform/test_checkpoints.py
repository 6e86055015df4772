"""Which checkpoints of a run count, which are kept, and which is the best; on a disk and on an object store."""

import json
import uuid

import pytest

from vlmgym.checkpoints import Checkpoints, Score
from vlmgym.metrics_file import Point
from vlmgym.storage import Storage

STAGES = ["cold_start", "grpo"]


@pytest.fixture(params=["disk", "memory"])
def run(request, tmp_path):
    return Storage.at(tmp_path if request.param == "disk" else f"memory://tests/{uuid.uuid4().hex}")


def write(checkpoints, stage, step, value=None):
    """What training does: begin, write, finish."""
    point = Point(stage, step)
    (checkpoints.begin(point) / "weights").write(f"{stage} {step}")
    checkpoints.finish(point, None if value is None else Score("reward", value))


def names(checkpoints):
    return [name for name in checkpoints.folder.names() if name != "best.json"]


def test_the_newest_of_the_last_stage_is_the_latest(run):
    checkpoints = Checkpoints(run, STAGES, keep=2)
    assert checkpoints.latest() is None
    write(checkpoints, "cold_start", 900)
    assert checkpoints.latest() == Point("cold_start", 900)
    write(checkpoints, "grpo", 9)
    write(checkpoints, "grpo", 10)
    assert checkpoints.latest() == Point("grpo", 10)
    assert (checkpoints.path(Point("grpo", 10)) / "weights").read() == "grpo 10"


def test_what_was_not_finished_does_not_count(run):
    checkpoints = Checkpoints(run, STAGES)
    write(checkpoints, "grpo", 1)
    (checkpoints.begin(Point("grpo", 2)) / "weights").write("half of it")
    again = Checkpoints(run, STAGES)
    assert again.latest() == Point("grpo", 1)
    assert not again.path(Point("grpo", 2)).exists() or not run.renames, "a name on a disk stands for the whole of it"
    place = again.begin(Point("grpo", 2))
    assert not (place / "weights").exists(), "what was left behind is gone"
    (place / "weights").write("all of it")
    again.finish(Point("grpo", 2))
    assert again.latest() == Point("grpo", 2)
    assert (again.path(Point("grpo", 2)) / "weights").read() == "all of it"


def test_the_newest_are_kept_and_one_of_each_stage_before(run):
    checkpoints = Checkpoints(run, STAGES, keep=2)
    for step in (10, 20, 30):
        write(checkpoints, "cold_start", step)
    assert names(checkpoints) == ["cold_start-000020", "cold_start-000030"]
    for step in (1, 2, 3):
        write(checkpoints, "grpo", step)
    assert names(checkpoints) == ["cold_start-000030", "grpo-000002", "grpo-000003"]


@pytest.mark.parametrize(("best", "step"), [("max", 2), ("min", 4)])
def test_the_best_is_kept_and_named(run, best, step):
    checkpoints = Checkpoints(run, STAGES, keep=1, best=best)
    assert checkpoints.best() is None
    for number, value in enumerate([0.5, 0.9, 0.6, 0.1, None, 0.4], start=1):
        write(checkpoints, "grpo", number, value)
    assert checkpoints.best() == Point("grpo", step)
    assert names(checkpoints) == [f"grpo-{step:06d}", "grpo-000006"]
    named = json.loads((checkpoints.folder / "best.json").read())
    assert named == {
        "checkpoint": f"grpo-{step:06d}",
        "score": {"metric": "reward", "value": {"max": 0.9, "min": 0.1}[best]},
    }


def test_the_newest_of_equals_is_the_best(run):
    checkpoints = Checkpoints(run, STAGES, keep=1)
    for step in (1, 2, 3):
        write(checkpoints, "grpo", step, 0.5)
    assert checkpoints.best() == Point("grpo", 3)
    assert names(checkpoints) == ["grpo-000003"]


def test_a_score_may_come_later(run):
    checkpoints = Checkpoints(run, STAGES, keep=1)
    write(checkpoints, "grpo", 1)
    checkpoints.rate(Point("grpo", 1), Score("reward", 0.5))
    write(checkpoints, "grpo", 2)
    checkpoints.rate(Point("grpo", 2), Score("reward", 0.4))
    write(checkpoints, "grpo", 3)
    assert checkpoints.best() == Point("grpo", 1)
    assert names(checkpoints) == ["grpo-000001", "grpo-000003"]
