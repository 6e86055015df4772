"""A whole job, trained in one go, and once more with a stop, a kill and a failure on the way: nothing may differ."""

import json
import os
import signal
import threading

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from training_process import has_done, lines_of, start, wait_for

from vlmgym.checkpoints import hugging_face_dir
from vlmgym.grpo.shard_files import kept_tensors, read_shards
from vlmgym.job import JobError, load_job
from vlmgym.storage import Storage
from vlmgym.tracking.group_record import read_groups
from vlmgym.train import train_job

JOB = """\
name: demo
game: {id: shisen_sho, level: tiny, overrides: {rows: 2}}
model: {tiny: true}
sampling: {max_tokens: 30}
env_runners: {count: 1, num_cpus: 0.5, envs_per_runner: 4}
engine: {num_cpus: 0.5, max_batch_size: 1}
learners: {count: 1, num_cpus: 0.5}
evaluation: {num_states: 2}
cold_start: {updates: 40, batch_size: 8, lr: 5e-3, decay_fraction: 0.5, teacher: {solver: 1}, eval_every: 20}
grpo: {iterations: 6, groups: 4, group_size: 4, lr: 1e-3, warmup_iterations: 6, eval_every: 4}
checkpoints: {every: 2, best_metric: reward}
tracking: {wandb: off, rollouts_every: 2, num_rollouts: 3}
"""
"""An engine that decodes one response at a time: in a batch, log-probabilities depend a little on the other rows."""


def write_job(folder):
    path = folder / "job.yaml"
    path.write_text(f"{JOB}output_dir: {folder / 'runs'}\n")
    return path


class LosesItsLearner(threading.Event):
    """A stop signal that never comes. The first time that it is asked for after a step, the learner's process dies."""

    def __init__(self, run_dir, stage, step):
        super().__init__()
        self.where = run_dir, stage, step
        self.is_done = False

    def is_set(self):
        if not self.is_done and has_done(*self.where):
            (learner,) = [child for child in psutil.Process().children(recursive=True) if is_learner(child)]
            learner.kill()
            self.is_done = True
        return False


def is_learner(process):
    """Ray Train, by which RLlib starts learners, gives all of its workers this name."""
    return "".join(process.cmdline()).startswith("ray::_WrappedExecutable")


@pytest.fixture(scope="module")
def whole_run(ray_session, tmp_path_factory):
    """The run directory of a job that was trained in one go."""
    return train_job(load_job(write_job(tmp_path_factory.mktemp("whole"))))


@pytest.fixture(scope="module")
def broken_run(ray_session, tmp_path_factory):
    """The same, stopped with SIGTERM in the cold start, killed with SIGKILL after the third iteration, resumed twice,
    and its learner lost after the fifth; and what it printed."""
    folder = tmp_path_factory.mktemp("broken")
    job, log = write_job(folder), folder / "output"
    run_dir = folder / "runs" / "demo"
    process = start(log, "train", job)
    wait_for(lambda: has_done(run_dir, "cold_start", 20), process, log)
    process.terminate()
    assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
    process = start(log, "train", job, "--resume")
    try:
        wait_for(lambda: has_done(run_dir, "grpo", 3), process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with log.open("a") as output:
        train_job(
            load_job(job),
            resume=True,
            console=Console(file=output, width=200),
            stop=LosesItsLearner(run_dir, "grpo", 5),
        )
    return run_dir, log.read_text()


def test_a_broken_run_has_the_weights_and_the_optimizer_of_a_whole_one(whole_run, broken_run):
    one, other = (run_dir / "checkpoints" / "grpo-000006" for run_dir in (whole_run, broken_run[0]))
    weights, same = (load_file(hugging_face_dir(path) / "model.safetensors") for path in (one, other))
    start = load_file(hugging_face_dir(one.with_name("cold_start-000040")) / "model.safetensors")
    assert weights.keys() == same.keys()
    assert all(np.array_equal(weights[name], same[name]) for name in weights)
    assert not all(np.array_equal(weights[name], start[name]) for name in weights)
    moments, same = (optimizer_tensors(path) for path in (one, other))
    assert len(moments) > 20 and all(map(torch.equal, moments, same))


def optimizer_tensors(checkpoint):
    folder = Storage.at(checkpoint / "learner_group" / "learner" / "shards")
    kept = {name: torch.empty(of.size) for name, of in kept_tensors(folder).items() if name.startswith("optimizer/")}
    read_shards(kept, folder)
    return [kept[name] for name in sorted(kept)]


def test_a_broken_run_has_the_metrics_and_evaluations_of_a_whole_one(whole_run, broken_run):
    whole, broken = ([without_times(line) for line in lines_of(run_dir)] for run_dir in (whole_run, broken_run[0]))
    assert broken == whole
    assert [line["step"] for line in whole if line["stage"] == "grpo"] == [1, 2, 3, 4, 5, 6]
    rates = [line["lr"] for line in whole if line["stage"] == "grpo"]
    assert rates == pytest.approx([1e-3 * i / 6 for i in (2, 3, 4, 5, 6, 6)])  # of the next update
    assert any(line["reward_std"] > 0 for line in whole if line["stage"] == "grpo")
    evaluations = [(run_dir / "evaluations.json").read_text() for run_dir in (whole_run, broken_run[0])]
    assert evaluations[0] == evaluations[1]


def without_times(line):
    differing = ("time_s", "timing_s/", "perf/", "num_restarts")
    return {name: value for name, value in line.items() if not name.startswith(differing)}


def test_a_broken_run_went_on_where_it_was(broken_run):
    run_dir, output = broken_run
    assert "SIGTERM: stopping with a checkpoint" in output
    (stopped,) = [line for line in output.splitlines() if line.startswith("stopped after cold_start")]
    assert f"resuming {stopped.removeprefix('stopped ').partition(';')[0]}" in output
    times = [line["time_s"] for line in lines_of(run_dir)]
    assert times == sorted(times)


def test_a_lost_learner_costs_what_came_after_the_last_checkpoint(broken_run):
    run_dir, output = broken_run
    assert "restart 1 of at most 3" in output
    assert output.count("resuming after grpo 4") == 1
    restarts = [line["num_restarts"] for line in lines_of(run_dir) if line["stage"] == "grpo"]
    assert restarts == [0, 0, 0, 0, 1, 1]


def test_every_iteration_tells_what_happened(whole_run):
    for line in (line for line in lines_of(whole_run) if line["stage"] == "grpo"):
        for name in (
            "game_reward", "legal_move_rate", "format_rate", "perception_cells", "perception_board", "kl", "entropy",
            "clip_ratio", "logprob_mismatch/max", "num_tokens", "timing_s/sample", "timing_s/update",
            "timing_s/sync_weights", "timing_s/step", "weights_version_lag", "lr", "grad_norm", "num_skipped_updates",
            "num_restarts",
        ):  # fmt: skip
            assert line[name] is not None, name
        assert line["logprob_mismatch/max"] < 1e-4
        assert line["weights_version_lag"] == line["num_restarts"] == line["num_skipped_updates"] == 0


def test_the_summary_has_every_policy_with_its_interval(whole_run):
    (game, summary), *others = json.loads((whole_run / "summary.json").read_text()).items()
    assert game == "shisen_sho/tiny-rows-2" and not others
    trained = {"untrained", "cold_start_best", "cold_start", "grpo"}
    assert set(summary) == trained | {"teacher", "random", "legal_random", "solver"}
    for policy, modes in summary.items():
        assert set(modes) == ({"sampled", "greedy"} if policy in trained else {"sampled"})
        for metrics in modes.values():
            for name, rate in metrics.items():
                if rate["n"]:
                    assert rate["low"] <= rate["mean"] <= rate["high"], name
                assert rate["n"] == 2 or (name.startswith("reasoning_") and rate["n"] < 2), name
    assert summary["solver"]["sampled"]["legal_move_rate"]["mean"] == 1.0


def test_the_run_directory_is_complete(whole_run):
    names = {path.name for path in whole_run.iterdir()}
    assert {"metrics.jsonl", "curves.png", "summary.json", "checkpoints", "rollouts", "model"} <= names
    kept = sorted(path.name for path in (whole_run / "checkpoints").iterdir())
    assert kept == ["best.json", "cold_start-000040", "grpo-000002", "grpo-000004", "grpo-000006"]
    folder = whole_run / "rollouts" / "grpo-0004"
    groups = list(read_groups(folder))
    assert len(groups) == 3 and all((folder / board.picture).is_file() for each in groups for board in each.boards)


def test_the_best_checkpoint_is_that_of_the_best_metric(whole_run):
    best = json.loads((whole_run / "checkpoints" / "best.json").read_text())
    rewards = {line["step"]: line["reward"] for line in lines_of(whole_run) if line["stage"] == "grpo"}
    step = max((2, 4, 6), key=lambda step: (rewards[step], step))
    assert best == {"checkpoint": f"grpo-{step:06d}", "score": {"metric": "reward", "value": rewards[step]}}


def test_a_finished_run_has_nothing_to_resume(whole_run, tmp_path):
    log = tmp_path / "output"
    (whole_run / "job.yaml").write_text((whole_run.parents[1] / "job.yaml").read_text())
    assert start(log, "train", whole_run.parents[1] / "job.yaml", "--resume").wait(timeout=300) == 0
    assert "this run is finished, nothing to resume" in log.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("evaluation.num_states=100", "evaluation.num_states must be at most"),
        ("grpo.groups=7", "must divide by num_learners"),
        ("checkpoints.best_metric=rewards", "checkpoints.best_metric: .*rewards.*reward"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(tmp_path, change, message):
    job = tmp_path / "job.yaml"
    small = "env_runners: {count: 1, num_cpus: 0}\nengine: {num_cpus: 0}\nlearners: {count: 2, num_cpus: 0.1}\n"
    game = "{id: shisen_sho, level: tiny, overrides: {rows: 2, cols: 2}}"
    job.write_text(f"name: x\ngame: {game}\nmodel: {{tiny: true}}\noutput_dir: {tmp_path}\n{small}")
    with pytest.raises(JobError, match=message):
        train_job(load_job(job, overrides=[change]))
