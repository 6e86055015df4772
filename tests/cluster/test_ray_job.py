"""Job files on a real head: submitted by their name, from anywhere, with local code; refused; failed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vlmgym.checkpoints import hugging_face_dir

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("platform", "envs", "policies")


def run(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_a_job_file_is_submitted_by_its_name(head, tmp_path: Path) -> None:
    done = run(["ray", "job", "submit", "jobs/smoke-g0.yaml"], head.client, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "grpo 2/2 | loss" in done.stdout and "succeeded" in done.stdout + done.stderr
    model = hugging_face_dir(head.home / "runs" / "smoke-g0" / "checkpoints" / "grpo-000002")
    assert {"config.json", "model.safetensors"} <= {path.name for path in model.iterdir()}


def test_a_job_that_fails_says_why_in_a_line_and_has_another_exit_code(head, tmp_path: Path) -> None:
    command = ["ray", "job", "submit", "--", "jobs/smoke-g0.yaml", "--set", "learners.count=64"]
    done = run(command, head.client, tmp_path)
    assert done.returncode == 1
    (reason,) = {line for line in done.stdout.splitlines() if line.startswith("vlmgym: ")}
    assert reason == "vlmgym: learners.count needs 64 CPUs, this cluster has 2"


@pytest.mark.parametrize("command", ["ray job submit jobs/smoke-g0.yaml", "vlmgym submit jobs/smoke-g0.yaml"])
def test_nobody_submits_without_the_token(head, command: str) -> None:
    stranger = {**head.stranger, "PYTHONPATH": os.pathsep.join(SOURCE_ROOTS)}
    done = run(command.split(), stranger, ROOT)
    assert done.returncode != 0 and "Missing authentication token" in done.stderr
    if command.startswith("vlmgym"):
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("trains", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_with_the_hook_local_code_runs_from_anywhere(head, tmp_path: Path, trains: bool) -> None:
    """On the driver, and where it trains on workers too."""
    checkout, marks, elsewhere = tmp_path / "checkout", tmp_path / "marks", tmp_path / "elsewhere"
    for name in (*SOURCE_ROOTS, "jobs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    marks.mkdir()
    elsewhere.mkdir()
    driver, runner = (checkout / "platform" / "vlmgym" / name for name in ("commands/train.py", "grpo/runner.py"))
    changed = driver.read_text().replace('print(f"vlmgym: {reason}")', 'print(f"vlmgym: {reason}: {__file__}")')
    driver.write_text(changed)
    note = f"import os, pathlib\npathlib.Path({str(marks)!r}, str(os.getpid())).write_text(__file__)\n"
    runner.write_text(runner.read_text() + note)
    mine = {
        **head.client,
        "RAY_JOB_SUBMIT_HOOK": "vlmgym.submission.submit_hook",
        "PYTHONPATH": os.pathsep.join(str(checkout / name) for name in SOURCE_ROOTS),
    }
    arguments = ["--set", "grpo.iterations=1", "--set", "name=local", *([] if trains else ["--dry-run"])]
    done = run(["ray", "job", "submit", "--", str(checkout / "jobs" / "smoke-g0.yaml"), *arguments], mine, elsewhere)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "python -m vlmgym jobs/smoke-g0.yaml --set grpo.iterations=1 --set name=local" in done.stdout
    assert re.search(r"vlmgym: this job has no profiles: \S+/_ray_pkg_\S+/commands/train.py\n", done.stdout)
    if trains:
        assert "grpo 1/1 | loss" in done.stdout and (head.home / "runs/local/checkpoints/grpo-000001").is_dir()
        runners = [path.read_text() for path in marks.iterdir()]
        assert len(runners) >= 2 and all("/_ray_pkg_" in path for path in runners)  # the driver, and the runner's actor


@pytest.mark.slow
def test_submit_ends_with_the_exit_code_of_the_driver_and_its_reason(head, tmp_path: Path) -> None:
    job = tmp_path / "bad.yaml"
    job.write_text((ROOT / "jobs" / "smoke-g0.yaml").read_text().replace("level: tiny", "level: tny"))
    here = {**head.client, "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in SOURCE_ROOTS)}
    done = run(["vlmgym", "submit", str(job), "--working-dir", str(tmp_path), "--submission-id", "bad"], here, tmp_path)
    assert done.returncode == 2
    told = done.stdout.splitlines()[-1]
    assert told.startswith(
        "vlmgym: bad failed, exit code 2: vlmgym: bad.yaml: game: unknown level of shisen_sho 'tny'"
    ), done.stdout
