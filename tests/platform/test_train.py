"""A whole job in a process of its own: trained, killed, resumed, measured."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlmgym.job import JobError, load_job
from vlmgym.train import train_job

ROOT = Path(__file__).parents[2]
SMALL = """\
sampling: {max_tokens: 44}
env_runners: {count: 1, num_cpus: 0.5}
engine: {num_cpus: 0.5}
evaluation: {num_states: 16}
cold_start: {updates: 10, lr: 3e-3, teacher: {solver: 1}, eval_every: 5}
grpo: {iterations: 4, groups: 4, group_size: 4, lr: 1e-4, checkpoint_every: 1, eval_every: 4}
tracking: {wandb: off, rollouts_every: 2, num_rollouts: 3}
"""


def start(log, *arguments):
    """Runs `vlmgym` with its output in a file: what a killed run leaves behind would keep a pipe open."""
    roots = os.pathsep.join(str(ROOT / name) for name in ("platform", "envs", "policies"))
    environment = {**os.environ, "PYTHONPATH": roots, "RAY_ADDRESS": "local"}  # join no cluster of another test
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "vlmgym", *map(str, arguments)],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def wait_for(condition, process, log, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def lines_of(run_dir):
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture(scope="module")
def resumed_run(tmp_path_factory):
    """A run that was killed with SIGKILL in its third GRPO iteration, then resumed; and its metrics before."""
    folder = tmp_path_factory.mktemp("train")
    job = folder / "job.yaml"
    head = "name: demo\ngame: {id: shisen_sho, level: tiny}\nmodel: {tiny: true}\n"
    job.write_text(f"{head}output_dir: {folder / 'runs'}\n{SMALL}")
    run_dir = folder / "runs" / "demo"
    log = folder / "output"
    first = start(log, "train", job)
    try:
        wait_for((run_dir / "checkpoints" / "grpo-000002").is_dir, first, log)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = lines_of(run_dir)
    second = start(log, "train", job, "--resume")
    assert second.wait(timeout=300) == 0, log.read_text()[-3000:]
    return run_dir, before, log.read_text()


def test_a_resumed_run_goes_on_in_the_same_metrics_file(resumed_run):
    run_dir, before, output = resumed_run
    lines = lines_of(run_dir)
    assert "resuming after grpo 2" in output
    kept = [line for line in before if line["stage"] == "cold_start" or line["step"] <= 2]
    assert lines[: len(kept)] == kept
    assert [line["step"] for line in lines if line["stage"] == "grpo"] == [1, 2, 3, 4]


def test_every_iteration_tells_what_happened(resumed_run):
    run_dir, _, _ = resumed_run
    for line in (line for line in lines_of(run_dir) if line["stage"] == "grpo"):
        for name in (
            "game_reward", "legal_move_rate", "format_rate", "perception_cells", "perception_board", "kl", "entropy",
            "clip_ratio", "logprob_mismatch/max", "num_tokens", "timing_s/sample", "timing_s/update",
            "timing_s/sync_weights", "timing_s/step", "weights_version_lag", "lr", "grad_norm",
        ):  # fmt: skip
            assert line[name] is not None, name
        assert line["logprob_mismatch/max"] < 1e-4
        assert line["weights_version_lag"] == 0


def test_the_summary_has_every_policy_with_its_interval(resumed_run):
    run_dir, _, output = resumed_run
    summary = json.loads((run_dir / "summary.json").read_text())
    trained = {"untrained", "cold_start_best", "cold_start", "grpo"}
    assert set(summary) == trained | {"teacher", "random", "legal_random", "solver"}
    for policy, modes in summary.items():
        assert set(modes) == ({"sampled", "greedy"} if policy in trained else {"sampled"})
        for metrics in modes.values():
            for name, rate in metrics.items():
                assert rate["low"] <= rate["mean"] <= rate["high"]
                assert rate["n"] == 16 or (name.startswith("reasoning_") and rate["n"] < 16), name
    assert summary["solver"]["sampled"]["legal_move_rate"]["mean"] == 1.0
    assert "after GRPO" in output


def test_the_run_directory_is_complete(resumed_run):
    run_dir, _, _ = resumed_run
    names = {path.name for path in run_dir.iterdir()}
    assert {"job.yaml", "metrics.jsonl", "curves.png", "summary.json", "checkpoints", "rollouts", "model"} <= names
    kept = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert kept == ["cold_start-000010", "grpo-000002", "grpo-000003", "grpo-000004"]
    rollouts = (run_dir / "rollouts" / "grpo-0004" / "rollouts.jsonl").read_text().splitlines()
    assert len(rollouts) == 3 and (run_dir / "rollouts" / "grpo-0004" / "board-0.png").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("evaluation.num_states=100", "evaluation.num_states must be at most"),
        ("grpo.groups=7", "must divide by num_learners"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(tmp_path, change, message):
    job = tmp_path / "job.yaml"
    small = "env_runners: {count: 1, num_cpus: 0}\nengine: {num_cpus: 0}\nlearners: {count: 2, num_cpus: 0.1}\n"
    game = "{id: shisen_sho, level: tiny, overrides: {rows: 2, cols: 2}}"
    job.write_text(f"name: x\ngame: {game}\nmodel: {{tiny: true}}\noutput_dir: {tmp_path}\n{small}")
    with pytest.raises(JobError, match=message):
        train_job(load_job(job, overrides=[change]))
