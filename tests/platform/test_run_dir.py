from collections.abc import Callable
from pathlib import Path

import pytest

from vlmgym.job import JobError, load_job
from vlmgym.remote_copy import RemoteCopy
from vlmgym.run_dir import holds_run, prepare_run_dir
from vlmgym.storage import Storage

WriteJob = Callable[..., Path]


def test_a_new_run_starts_with_its_resolved_job(write_job: WriteJob) -> None:
    job = load_job(write_job())
    assert prepare_run_dir(job, resume=False) == []
    assert load_job(job.run_dir / "job.yaml") == job


def test_earlier_runs_are_moved_aside_never_overwritten(write_job: WriteJob, tmp_path: Path) -> None:
    job = load_job(write_job())
    for number in ("first", "second"):
        prepare_run_dir(job, resume=False)
        (job.run_dir / "mark").write_text(number)
    (said,) = prepare_run_dir(job, resume=False)
    assert said == f"the earlier run was moved to {tmp_path / 'runs' / 'demo.2'}"
    assert (tmp_path / "runs/demo.1/mark").read_text() == "first"
    assert (tmp_path / "runs/demo.2/mark").read_text() == "second"
    assert not (job.run_dir / "mark").exists()


def test_there_is_something_to_resume_from_when_a_run_was_prepared(write_job: WriteJob) -> None:
    job = load_job(write_job())
    assert not holds_run(job)
    prepare_run_dir(job, resume=False)
    assert holds_run(job)


def test_resuming_keeps_the_run_and_names_what_changed(write_job: WriteJob) -> None:
    path = write_job()
    job = load_job(path)
    prepare_run_dir(job, resume=False)
    (job.run_dir / "mark").write_text("kept")
    assert prepare_run_dir(job, resume=True) == []
    longer = load_job(path, overrides=["grpo.iterations=500"])
    assert prepare_run_dir(longer, resume=True) == ["changed since the run started: grpo.iterations 400 -> 500"]
    assert (job.run_dir / "mark").read_text() == "kept"


def test_nothing_to_resume(write_job: WriteJob) -> None:
    with pytest.raises(JobError, match=r"nothing to resume: .*demo holds no run"):
        prepare_run_dir(load_job(write_job()), resume=True)


def test_a_run_elsewhere_is_never_written_over_and_comes_back_to_be_resumed(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(write_job(), overrides=[f"output_dir=memory://tests/{tmp_path.name}"])
    assert job.run_dir == Path("runs/demo") and job.location == f"memory://tests/{tmp_path.name}/demo"
    with pytest.raises(JobError, match=f"nothing to resume: {job.location} holds no run"):
        prepare_run_dir(job, resume=True)
    prepare_run_dir(job, resume=False)
    (job.run_dir / "mark").write_text("of the run")
    RemoteCopy(job.run_dir, Storage.at(job.location)).update()
    with pytest.raises(JobError, match=f"{job.location} holds a run: resume it"):
        prepare_run_dir(job, resume=False)
    (job.run_dir / "mark").write_text("of another machine")
    assert prepare_run_dir(job, resume=True) == []
    assert (job.run_dir / "mark").read_text() == "of the run"
