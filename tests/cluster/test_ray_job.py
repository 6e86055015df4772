"""Job files on a real head: submitted by their name, from anywhere, with local code; refused; failed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vlmgym.checkpoints import hugging_face_dir

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("platform", "envs", "policies")


def run(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
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


def test_with_the_hook_local_code_runs_from_anywhere_on_driver_and_workers(head, tmp_path: Path) -> None:
    checkout, marks, elsewhere = tmp_path / "checkout", tmp_path / "marks", tmp_path / "elsewhere"
    for name in (*SOURCE_ROOTS, "jobs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    marks.mkdir()
    elsewhere.mkdir()
    for module in ("run.py", "grpo/runner.py"):
        path = checkout / "platform" / "vlmgym" / module
        note = (
            f"import os, pathlib\npathlib.Path({str(marks)!r}, f'{path.stem}-{{os.getpid()}}').write_text(__file__)\n"
        )
        path.write_text(path.read_text() + note)
    mine = {
        **head.client,
        "RAY_JOB_SUBMIT_HOOK": "vlmgym.submission.submit_hook",
        "PYTHONPATH": os.pathsep.join(str(checkout / name) for name in SOURCE_ROOTS),
    }
    arguments = ["--set", "grpo.iterations=1", "--set", "name=local"]
    done = run(["ray", "job", "submit", "--", str(checkout / "jobs" / "smoke-g0.yaml"), *arguments], mine, elsewhere)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "python -m vlmgym jobs/smoke-g0.yaml --set grpo.iterations=1" in done.stdout
    assert "grpo 1/1 | loss" in done.stdout
    drivers, runners = ([path.read_text() for path in marks.glob(f"{name}-*")] for name in ("run", "runner"))
    assert len(drivers) == 1 and len(runners) >= 2  # the driver, and the actor of the env runner
    assert all("_ray_pkg_" in path for path in drivers + runners)
    assert (head.home / "runs" / "local" / "checkpoints" / "grpo-000001").is_dir()


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
