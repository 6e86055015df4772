"""Every file in jobs/ is a job in each of its profiles, and a program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmgym.job import JobFile

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "jobs").iterdir())
FIRST_LINE = "#!/usr/bin/env -S PYTHONPATH=platform:envs:policies python -m vlmgym"


def profiles_of(path: Path) -> list[str | None]:
    return list(JobFile.read(path).profiles) or [None]


JOBS = [pytest.param(path, profile, id=f"{path.name}-{profile}") for path in FILES for profile in profiles_of(path)]


def test_the_main_job_is_here_with_both_profiles() -> None:
    assert set(JobFile.read(ROOT / "jobs" / "shisen.yaml").profiles) == {"gpu", "laptop"}


@pytest.mark.parametrize(("path", "profile"), JOBS)
def test_a_file_is_a_job_in_each_profile(path: Path, profile: str | None) -> None:
    job = JobFile.read(path).resolve(profile)
    assert job.make_game().legal_actions(job.make_game().mid_game(0))


@pytest.mark.parametrize(("path", "profile"), JOBS)
def test_results_of_two_profiles_do_not_share_a_directory(path: Path, profile: str | None) -> None:
    file = JobFile.read(path)
    same = [other for other in profiles_of(path) if file.resolve(other).run_dir == file.resolve(profile).run_dir]
    assert same == [profile]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_a_program(path: Path) -> None:
    assert path.read_text().splitlines()[0] == FIRST_LINE
    assert os.access(path, os.X_OK)
    mode = subprocess.run(["git", "ls-files", "-s", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not mode.stdout or mode.stdout.startswith("100755")


def test_the_main_job_runs_by_its_name() -> None:
    command = ["jobs/shisen.yaml", "--profile", "laptop", "--dry-run"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("vlmgym: profile laptop, as asked\nname: shisen\n")
