"""Runs whose directory is a URI: trained, stopped during GRPO, resumed on a machine that has nothing of them yet."""

import shutil
import uuid
from pathlib import Path

import pytest
from rich.console import Console
from training_process import has_done, lines_of, start, wait_for

from vlmgym.checkpoints import Checkpoints, hugging_face_dir
from vlmgym.job import load_job
from vlmgym.metrics_file import Point
from vlmgym.run_dir import prepare_run_dir
from vlmgym.storage import Storage
from vlmgym.train import train_job

pytestmark = pytest.mark.slow

JOB = """\
name: demo
game: {id: shisen_sho, level: tiny, overrides: {rows: 2}}
model: {tiny: true}
sampling: {max_tokens: 8}
env_runners: {count: 1, num_cpus: 0.5, envs_per_runner: 4}
engine: {num_cpus: 0.5}
evaluation: {num_states: 2}
checkpoints: {every: 2, keep: 2}
tracking: {wandb: off}
"""


def write_job(folder: Path, location: str, more: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(f"{JOB}output_dir: {location}\n{more}")
    return path


def test_a_run_is_stopped_during_grpo_and_goes_on_on_another_machine(tmp_path):
    """SIGTERM between two checkpoints; the second process starts in a directory without `runs`."""
    grpo = "grpo: {iterations: 200, groups: 2, group_size: 2, eval_every: 200}\n"
    job = write_job(tmp_path, f"file://{tmp_path / 'store'}", f"{grpo}learners: {{count: 1, num_cpus: 0.5}}\n")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    log = tmp_path / "output"
    process = start(log, "train", job, cwd=here)
    run_dir = here / "runs" / "demo"
    wait_for(lambda: has_done(run_dir, "grpo", 3), process, log)
    process.terminate()
    assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
    steps = [line["step"] for line in lines_of(run_dir)]
    (stopped,) = [line for line in log.read_text().splitlines() if line.startswith("stopped after")]
    assert stopped == f"stopped after grpo {steps[-1]}; --resume goes on"
    store = Storage.at(f"file://{tmp_path / 'store' / 'demo'}")
    assert Checkpoints(store, ["grpo"]).latest() == Point("grpo", steps[-1])
    assert lines_of(Path(store.path)) == lines_of(run_dir)
    shutil.rmtree(here)
    process = start(log, "train", job, "--resume", "--set", f"grpo.iterations={steps[-1] + 2}", cwd=there)
    assert process.wait(timeout=480) == 0, log.read_text()[-3000:]
    assert f"resuming after grpo {steps[-1]}" in log.read_text()
    assert [line["step"] for line in lines_of(Path(store.path))] == [*steps, steps[-1] + 1, steps[-1] + 2]
    assert (store / "summary.json").exists()


def test_a_whole_run_on_a_store_that_cannot_rename(tmp_path, ray_session, monkeypatch):
    """memory:// lives in this process, and so does the learner."""
    monkeypatch.chdir(tmp_path)
    location = f"memory://tests/{uuid.uuid4().hex}"
    stages = (
        "cold_start: {updates: 2, batch_size: 4, lr: 1e-3, teacher: {solver: 1}, eval_every: 2}\n"
        "grpo: {iterations: 2, groups: 2, group_size: 2, eval_every: 2}\n"
    )
    path = write_job(tmp_path, location, stages)
    store = Storage.at(f"{location}/demo")
    console = Console(file=(tmp_path / "output").open("a"), width=200)
    for resume, iterations in ((False, 2), (True, 4)):
        job = load_job(path, overrides=[f"grpo.iterations={iterations}"])
        prepare_run_dir(job, resume=resume)
        train_job(job, resume=resume, console=console)
        shutil.rmtree(tmp_path / "runs")
    names = (store / "checkpoints").names()
    assert [name for name in names if name != "best.json"] == ["cold_start-000002", "grpo-000002", "grpo-000004"]
    for name in ("cold_start-000002", "grpo-000004"):
        checkpoint = store / "checkpoints" / name
        assert (hugging_face_dir(checkpoint) / "model.safetensors").exists()
        assert ".metadata" in (checkpoint / "learner_group" / "learner" / "shards").names()
    lines = [line.split('"step": ')[1].split(",")[0] for line in (store / "metrics.jsonl").read().splitlines()]
    assert lines[-4:] == ["1", "2", "3", "4"]
    assert (store / "summary.json").exists()
