from pathlib import Path
from typing import Any

import pytest

from vlmgym.cli import main
from vlmgym.job import JobError
from vlmgym.submission import Submission, submit_hook

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that the hook runs."""
    lines: list[list[str]] = []
    monkeypatch.setattr("vlmgym.cli.main", lines.append)
    return lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my job.yaml"
    path.write_text("name: demo\n")
    return path


def test_the_checkout_is_uploaded_and_its_code_comes_first() -> None:
    submission = Submission.of(ROOT / "jobs" / "shisen.yaml", ["--set", "name=a b"])
    assert submission.entrypoint == "python -m vlmgym jobs/shisen.yaml --set 'name=a b'"
    assert submission.runtime_env == {
        "working_dir": str(ROOT),
        "env_vars": {"PYTHONPATH": "platform:envs:policies"},
    }


def test_an_installed_package_uploads_the_folder_of_the_job_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmgym.submission.checkout_root", lambda: None)
    submission = Submission.of(file)
    assert (submission.working_dir, submission.entrypoint) == (file.parent, "python -m vlmgym 'my job.yaml'")


def test_a_job_file_that_would_not_travel_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="the job file must lie in the working directory"):
        Submission.of(file)
    assert Submission.of(file, working_dir=tmp_path).working_dir == tmp_path
    with pytest.raises(JobError, match="does not exist"):
        Submission.of(file, working_dir=tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, []),
        ({"address": "http://head:8265"}, ["--address", "http://head:8265"]),
        ({"submission_id": "a", "job_id": "a", "no_wait": True}, ["--submission-id", "a", "--no-follow"]),
    ],
)
def test_the_hook_submits_a_job_file(
    file: Path, submitted: list[list[str]], given: dict[str, Any], said: list[str]
) -> None:
    submit_hook(entrypoint=(str(file), "--dry-run"), runtime_env=None, entrypoint_num_cpus=None, **given)
    assert submitted == [["submit", *said, "--", str(file), "--dry-run"]]


@pytest.mark.parametrize(
    ("entrypoint", "others"),
    [
        (("python", "train.py"), {}),
        (("missing.yaml",), {}),
        (None, {"working_dir": "."}),
        (None, {"entrypoint_num_cpus": 1.0}),
    ],
)
def test_the_hook_leaves_everything_else_to_ray(
    file: Path, submitted: list[list[str]], entrypoint: tuple[str, ...] | None, others: dict[str, Any]
) -> None:
    submit_hook(entrypoint=entrypoint or (str(file),), **others)
    assert submitted == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prfile", "gpu"], "vlmgym: No such option: --prfile (Possible options: --profile)\n"),
        (["--retries", "1", "--no-follow"], "must be 0 with --no-follow"),
        (["--address", "http://127.0.0.1:9"], "vlmgym: no Ray head to submit to: "),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_a_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["submit", str(ROOT / "jobs" / "shisen.yaml"), *arguments])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and told.count("\n") == 1
