import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import vlmgym
from vlmgym.cli import main
from vlmgym.cluster import Resources
from vlmgym.job import Job, JobError
from vlmgym.yaml12 import parse_yaml

WriteJob = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("vlmgym.cluster.join_cluster", lambda: None)
    monkeypatch.setattr("vlmgym.cluster.local_resources", lambda: Resources(2, 0))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, bool]]:
    """What train_job was called with; it and Ray are replaced."""
    calls: list[tuple[Job, bool]] = []

    def train_job(job: Job, *, resume: bool) -> Path:
        calls.append((job, resume))
        return job.run_dir

    module = ModuleType("vlmgym.train")
    module.train_job = train_job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vlmgym.train", module)
    monkeypatch.setattr("vlmgym.cluster.start_ray", lambda: Resources(2, 0))
    return calls


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


FITTING = "env_runners: {count: 1}\n"
PROFILES = FITTING + "profiles: {gpu: {seed: 1}, laptop: {seed: 2}}\n"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "train" in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out == f"{vlmgym.__version__}\n"
    assert run() == 0
    assert "Usage" in capsys.readouterr().out


def test_help_imports_no_torch_and_no_ray() -> None:
    check = (
        "import sys; from vlmgym import cli; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_train_prepares_the_run_and_trains(
    write_job: WriteJob, trained: list[tuple[Job, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", write_job(PROFILES), "--set", "grpo.groups=4", "--set", "grpo.lr=1e-3") == 0
    ((job, resume),) = trained
    assert (job.seed, job.grpo.groups, job.grpo.lr, resume) == (2, 4, 1e-3, False)
    assert (job.run_dir / "job.yaml").is_file()
    assert capsys.readouterr().out.splitlines()[0] == "vlmgym: no GPU in this cluster: profile laptop"


def test_a_job_file_alone_means_train(write_job: WriteJob, trained: list[tuple[Job, bool]]) -> None:
    path = write_job(PROFILES)
    assert run(path, "--profile", "gpu") == 0
    assert run("train", path, "--profile", "gpu", "--resume") == 0
    assert [(job.seed, resume) for job, resume in trained] == [(1, False), (1, True)]


@pytest.mark.parametrize(
    ("profile", "roles", "memory"),
    [
        ("laptop", ["driver", "engine", "env", "total"], "Memory: the tiny model takes less than 1 GiB"),
        ("gpu", ["driver", "learner", "engine", "env", "total"], "Memory per actor, estimated, GiB"),
    ],
)
def test_dry_run_of_the_main_job_prints_job_placement_and_memory(
    capsys: pytest.CaptureFixture[str], profile: str, roles: list[str], memory: str
) -> None:
    assert run(ROOT / "jobs" / "shisen.yaml", "--profile", profile, "--dry-run") == 0
    resolved, placement = capsys.readouterr().out.split("Placement", 1)
    said, job = resolved.split("\n", 1)
    assert said == f"vlmgym: profile {profile}, as asked"
    assert parse_yaml(job)["name"] == {"laptop": "shisen", "gpu": "shisen-gpu"}[profile]
    rows = [line.split() for line in re.split("Memory|Model", placement)[0].splitlines()]
    assert [row[0] for row in rows[1:] if row and row[0].isalpha() and row[0] != "role"] == roles
    assert memory in placement


def test_dry_run_starts_nothing(
    write_job: WriteJob, trained: list[tuple[Job, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", write_job("learners: {count: 64}"), "--dry-run") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["learner", "64", "1", "0", "64", "0"] in rows
    assert trained == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ("", ["--set", "grpo.iteratons=2"], "unknown key 'grpo.iteratons', did you mean 'grpo.iterations'?"),
        ("", ["--set", "game.id=chess"], "unknown game 'chess'"),
        ("", ["--set", "game.level=papr"], "unknown level of shisen_sho 'papr', did you mean 'paper'?"),
        ("", ["--set", "game.overrides.rows=40"], "rows must be in 2..16, got 40"),
        ("", ["--set", "model={path: /no/model}"], "'/no/model' does not exist"),
        (FITTING, ["--set", "learners.count=64"], "learners.count needs 64 CPUs, this cluster has 2"),
        (FITTING, ["--set", "learners={count: 1, num_gpus: 1}"], "this cluster has"),
        (PROFILES, ["--profile", "lptop"], "unknown profile 'lptop', did you mean 'laptop'?"),
        (FITTING, ["--resume"], "nothing to resume"),
        ("", ["--bogus"], "No such option: --bogus"),
        ("", ["--set"], "requires an argument"),
        ("grpo: [1", [], "line 6"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    write_job: WriteJob,
    trained: list[tuple[Job, bool]],
    capsys: pytest.CaptureFixture[str],
    more: str,
    arguments: list[str],
    message: str,
) -> None:
    assert run("train", write_job(more), *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlmgym: ")
    assert message in line
    assert trained == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Missing argument 'JOB.yaml'"),
        (["trian"], "No such command 'trian'"),
        (["/no/such/job.yaml"], "/no/such/job.yaml: No such file or directory"),
        (["train", "/"], "/: Is a directory"),
    ],
)
def test_bad_commands_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_model_that_nobody_has_is_one_line(
    write_job: WriteJob,
    trained: list[tuple[Job, bool]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def model_info(*_: object, **__: object) -> None:
        raise OSError("Repository Not Found\nfor url")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    assert run("train", write_job(FITTING), "--set", "model={path: nobody/nothing}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.path 'nobody/nothing' is no directory" in line
    assert trained == []


def test_refusals_during_training_are_told_but_bugs_are_not_hidden(
    write_job: WriteJob,
    trained: list[tuple[Job, bool]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise JobError("evaluation.num_states must be at most 40")

    monkeypatch.setattr(sys.modules["vlmgym.train"], "train_job", refuse)
    assert run("train", write_job(FITTING)) == 2
    assert capsys.readouterr().err == "vlmgym: evaluation.num_states must be at most 40\n"

    def break_down(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(sys.modules["vlmgym.train"], "train_job", break_down)
    with pytest.raises(ValueError, match="a bug"):
        main(["train", str(write_job(FITTING))])


def test_a_keyboard_interrupt_ends_with_130(
    write_job: WriteJob, trained: list[tuple[Job, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["vlmgym.train"], "train_job", interrupt)
    assert run("train", write_job(FITTING)) == 130
