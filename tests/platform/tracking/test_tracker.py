import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vlmgym.curves import curve_points
from vlmgym.job import Job, load_job
from vlmgym.metrics_file import Point, read_metrics
from vlmgym.settings import TrackingSettings
from vlmgym.tracking.group_record import (
    VERSION,
    BoardRecord,
    BranchRecord,
    GroupRecord,
    GroupWithPictures,
    TurnRecord,
    read_groups,
)
from vlmgym.tracking.tracker import Tracker
from vlmgym.tracking.wandb_run import wandb_mode


@pytest.fixture
def job(write_job: Callable[..., Path]) -> Job:
    return load_job(write_job())


def png(shade: int, height: int = 4, width: int = 6) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), shade, np.uint8)).save(file, "png")
    return file.getvalue()


def group(shade: int, response: str, reward: float = 0.0) -> GroupWithPictures:
    board = BoardRecord(text=" - ", picture=f"{shade}.png")
    turn = TurnRecord(board=0, response=response, reward=reward, game_reward=reward, well_formed=False)
    branch = BranchRecord(turns=(turn,), end=0)
    about = {"stage": "grpo", "step": 10, "group_id": 7, "game": "maze", "level": "tiny", "unit": "steps"}
    record = GroupRecord(version=VERSION, boards=(board,), branches=(branch,), **about)
    return GroupWithPictures(record, {board.picture: png(shade)})


def plain_console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, highlight=False), text


def test_a_run_leaves_metrics_and_curves(job: Job) -> None:
    console, _ = plain_console()
    with Tracker(job, console=console) as tracker, tracker.stage("grpo", 2) as stage:
        stage.log(1, {"reward": 0.5, "legal_move_rate": 0.25})
        stage.log(2, {"reward": 0.75, "legal_move_rate": 0.5})
    lines = read_metrics(job.run_dir / "metrics.jsonl")
    assert [(each["stage"], each["step"], each["reward"]) for each in lines] == [("grpo", 1, 0.5), ("grpo", 2, 0.75)]
    with Image.open(job.run_dir / "curves.png") as picture:
        assert picture.size[0] > 400
        assert len(picture.getcolors(10**6) or []) > 10


def test_no_curves_before_there_is_a_point(job: Job) -> None:
    Tracker(job, console=plain_console()[0]).close()
    assert not (job.run_dir / "curves.png").exists()


def test_plain_lines_where_there_is_no_terminal(job: Job) -> None:
    console, text = plain_console()
    with Tracker(job, console=console) as tracker, tracker.stage("grpo", 4) as stage:
        stage.log(1, {"reward": 0.5, "legal_move_rate": 0.256, "unlisted": 1.0})
    (line,) = text.getvalue().splitlines()
    assert line.startswith("grpo 1/4 | reward +0.50 | legal 25.6% | 0:00 elapsed, 0:00 left")
    assert "\x1b" not in line


def test_line_every_thins_the_console_but_not_the_file(job: Job) -> None:
    console, text = plain_console()
    with Tracker(job, console=console) as tracker, tracker.stage("cold_start", 7, line_every=3) as stage:
        for step in range(1, 8):
            stage.log(step, {"loss": 1.0})
        stage.log(4, {"evaluation/greedy/legal_move_rate": 0.5})
    starts = [line.split(" | ")[0] for line in text.getvalue().splitlines()]
    assert starts == ["cold_start 3/7", "cold_start 6/7", "cold_start 7/7", "cold_start 4/7"]
    assert len(read_metrics(job.run_dir / "metrics.jsonl")) == 8


def test_a_resumed_run_repeats_no_step(job: Job) -> None:
    console, _ = plain_console()
    with Tracker(job, console=console) as tracker, tracker.stage("grpo", 5) as stage:
        for step in (1, 2, 3):
            stage.log(step, {"reward": 0.0})
    with (
        Tracker(job, resume_after=Point("grpo", 2), console=console) as tracker,
        tracker.stage("grpo", 5, done=2) as stage,
    ):
        stage.log(3, {"reward": 1.0})
    lines = read_metrics(job.run_dir / "metrics.jsonl")
    assert curve_points(lines, "grpo", "reward") == ([1, 2, 3], [0.0, 0.0, 1.0])


def test_curves_leave_out_values_that_are_not_finite() -> None:
    lines = [
        {"stage": "grpo", "step": 1, "kl": None},
        {"stage": "grpo", "step": 2, "kl": 0.5},
        {"stage": "x", "step": 3},
    ]
    assert curve_points(lines, "grpo", "kl") == ([2], [0.5])


def test_groups_are_written_with_one_picture_per_board(job: Job) -> None:
    groups = [group(0, "<answer>(0, 0) (0, 1)</answer>", reward=2.0), group(0, "ünsure"), group(9, "")]
    with Tracker(job, console=plain_console()[0]) as tracker:
        folder = tracker.save_groups(Point("grpo", 10), groups)
    assert folder == job.run_dir / "rollouts" / "grpo-0010"
    assert list(read_groups(folder)) == [each.record for each in groups]
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == {"0.png": png(0), "9.png": png(9)}


@pytest.mark.parametrize(
    ("setting", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("off", {"WANDB_API_KEY": "k"}, "off"),
        ("online", {}, "online"),
    ],
)
def test_wandb_mode(monkeypatch: pytest.MonkeyPatch, setting: str, environment: dict[str, str], mode: str) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(TrackingSettings.model_validate({"wandb": setting})) == mode


def test_an_offline_wandb_run_holds_the_metrics_over_their_step(job: Job, tmp_path: Path) -> None:
    offline = job.model_copy(update={"tracking": TrackingSettings.model_validate({"wandb": "offline"})})
    with Tracker(offline, console=plain_console()[0]) as tracker, tracker.stage("grpo", 1) as stage:
        stage.log(1, {"reward": 0.5})
        tracker.save_groups(Point("grpo", 1), [group(0, "answer", reward=0.5)])
    (recorded,) = offline.run_dir.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(recorded)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "grpo/reward" in shown.stdout, shown.stderr
    assert "grpo/step" in shown.stdout
    assert list(recorded.glob("files/media/images/grpo/boards*.png"))


def test_boards_of_several_games_are_logged_on_one_size(job: Job) -> None:
    """wandb shows a list of pictures in the size of the first."""
    offline = job.model_copy(update={"tracking": TrackingSettings.model_validate({"wandb": "offline"})})
    wide, high = group(0, "wide"), group(9, "high")
    high = high._replace(pictures={"9.png": png(9, height=8, width=5)})
    with Tracker(offline, console=plain_console()[0]) as tracker, tracker.stage("grpo", 1):
        tracker.save_groups(Point("grpo", 1), [wide, high])
    shown = {}
    for path in offline.run_dir.glob("wandb/offline-run-*/files/media/images/grpo/boards*.png"):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        shown[int(pixels[0, 0, 0])] = pixels
    assert {shade: pixels.shape for shade, pixels in shown.items()} == {0: (8, 6, 3), 9: (8, 6, 3)}
    assert (shown[0][:4] == 0).all() and (shown[0][4:] == 255).all()
    assert (shown[9][:, :5] == 9).all() and (shown[9][:, 5] == 255).all()
