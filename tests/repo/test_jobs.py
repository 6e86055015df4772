"""Every file in jobs/ is a job in each of its profiles, or an evaluation, and a program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmgym.cli import command_for, main
from vlmgym.cluster import NodeResources, Resources, check_resources
from vlmgym.job import JobFile
from vlmgym_envs.registry import game_ids

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "jobs").iterdir())
FIRST_LINE = "#!/usr/bin/env -S PYTHONPATH=platform:envs:policies python -m vlmgym"


def profiles_of(path: Path) -> list[str | None]:
    return list(JobFile.read(path).profiles) or [None]


TRAINING = [path for path in FILES if command_for(str(path)) == "train"]
EVALUATIONS = [path for path in FILES if path not in TRAINING]
JOBS = [pytest.param(path, profile, id=f"{path.name}-{profile}") for path in TRAINING for profile in profiles_of(path)]
NODE = NodeResources(cpus=32, gpus=8)


def test_the_main_job_is_here_with_both_profiles() -> None:
    assert set(JobFile.read(ROOT / "jobs" / "shisen.yaml").profiles) == {"gpu", "laptop"}


@pytest.mark.parametrize(("path", "profile"), JOBS)
def test_a_file_is_a_job_in_each_profile(path: Path, profile: str | None) -> None:
    job = JobFile.read(path).resolve(profile)
    for game in (settings.make(**knobs) for settings in job.mixture for knobs in settings.knobs_in_training()):
        assert game.legal_actions(game.mid_game(0))


@pytest.mark.parametrize(("path", "profile"), JOBS)
def test_results_of_two_profiles_do_not_share_a_directory(path: Path, profile: str | None) -> None:
    file = JobFile.read(path)
    same = [other for other in profiles_of(path) if file.resolve(other).run_dir == file.resolve(profile).run_dir]
    assert same == [profile]


@pytest.mark.parametrize("game", game_ids())
def test_every_game_has_a_pure_run_and_one_with_a_cold_start_that_differ_in_nothing_else(game: str) -> None:
    pure, warm = (JobFile.read(ROOT / "jobs" / f"{form}-{game}.yaml").resolve() for form in ("g0", "g1"))
    assert (
        [settings.id for settings in pure.mixture] == [game] and pure.cold_start is None and warm.cold_start is not None
    )
    assert warm.model_copy(update={"name": pure.name, "cold_start": None}) == pure
    check_resources(warm, Resources(NODE.cpus, NODE.gpus, (NODE,)))


@pytest.mark.parametrize("name", ["smoke-g0.yaml", "smoke-g1.yaml"])
def test_the_smallest_jobs_fit_on_two_cores(name: str) -> None:
    check_resources(JobFile.read(ROOT / "jobs" / name).resolve(), Resources(2, 0))


def test_there_are_evaluations() -> None:
    assert {path.name for path in EVALUATIONS} == {"eval-shisen.yaml", "smoke-eval.yaml"}


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.name)
def test_an_evaluation_is_what_its_command_takes(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another policy, where that of the file is still to be trained."""
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--policy", "solver", "--out", str(tmp_path), "--dry-run"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("game         shisen_sho, level tiny: ")


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
