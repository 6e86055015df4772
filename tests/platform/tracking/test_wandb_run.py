"""What only happens with a key, held against a wandb that records what it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from rich.console import Console

from vlmgym.cli import main
from vlmgym.job import Job, load_job
from vlmgym.metrics_file import Point
from vlmgym.tracking.tracker import Tracker
from vlmgym.tracking.wandb_run import WandbRun


class RecordingRun:
    """Stands in for a run that is online."""

    def __init__(self) -> None:
        self.used: list[Any] = []
        self.logged: list[Any] = []

    def use_artifact(self, artifact: Any) -> None:
        self.used.append(artifact)

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self.logged.append((artifact, aliases))

    def finish(self) -> None: ...


@pytest.fixture
def job(write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Job:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    job = load_job(write_job(), overrides=["tracking.wandb=online"])
    job.run_dir.mkdir(parents=True)
    return job


def test_online_the_start_model_is_an_input_and_a_checkpoint_an_output(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, asked = RecordingRun(), []
    monkeypatch.setattr(wandb, "init", lambda **arguments: asked.append(arguments) or run)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recorder = WandbRun(job, "online")
    recorder.use_model(str(model))
    recorder.log_checkpoint(Point("grpo", 5), model, "reference")
    assert asked[0]["mode"] == "online" and asked[0]["resume"] == "allow"
    assert (asked[0]["group"], asked[0]["name"], asked[0]["job_type"]) == ("demo", "demo", "train")
    (start,) = run.used
    ((checkpoint, aliases),) = run.logged
    assert [entry.ref for entry in start.manifest.entries.values()] == [(model / "config.json").as_uri()]
    assert checkpoint.name.startswith("demo-grpo") and aliases == ["latest", "step-5"]
    assert checkpoint.metadata["made_from"] == str(model)


def test_where_wandb_cannot_be_reached_the_run_is_recorded_offline(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def init(*, mode: str, **arguments: Any) -> RecordingRun:
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route to host")
        return RecordingRun()

    monkeypatch.setattr(wandb, "init", init)
    Tracker(job, console=Console(quiet=True)).close()
    assert modes == ["online", "offline"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dashboards_are_saved_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    saved: list[tuple[str, str, str]] = []
    for view in (reports.Report, workspaces.Workspace):
        save = lambda self: saved.append((type(self).__name__, self.entity, self.project))  # noqa: E731
        monkeypatch.setattr(view, "save", save)
        monkeypatch.setattr(view, "url", property(lambda self: f"https://wandb.test/{type(self).__name__}"))
    project = {"project": {"internalId": "7"}}
    monkeypatch.setattr("wandb_workspaces.reports.v2.interface._get_api", lambda: None)
    monkeypatch.setattr("wandb_workspaces.reports.v2.interface.execute_graphql", lambda *_: project)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", "--out", str(tmp_path), "--entity", "us", "--project", "games"])
    assert ended.value.code == 0
    assert saved == [("Workspace", "us", "games"), ("Report", "us", "games")]
    assert "saved https://wandb.test/Workspace" in capsys.readouterr().out
