"""A whole run of a few seconds, and everything that watches it."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from rich.console import Console

from vlmgym.grpo.group_stats import group_stats, log_group_stats
from vlmgym.held_out import HeldOut
from vlmgym.job import Job, load_job
from vlmgym.metrics_file import Point, read_metrics
from vlmgym.tracking.group_record import read_groups
from vlmgym.tracking.metrics import METRICS, Metric, find_metric
from vlmgym.tracking.prometheus import RAY_PREFIX, gauge_name
from vlmgym.tracking.step_metrics import step_metrics
from vlmgym.tracking.tracker import Tracker
from vlmgym.train import train_job
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import make_engine

JOB = """\
name: demo
game: {id: shisen_sho, level: tiny, num_turns: 2}
model: {tiny: true}
sampling: {max_tokens: 44}
env_runners: {count: 1, num_cpus: 0.5}
engine: {num_cpus: 0.5}
evaluation: {num_states: 4}
cold_start: {updates: 2, lr: 3e-3, teacher: {solver: 1}, eval_every: 2}
grpo: {iterations: 2, groups: 2, group_size: 2, lr: 1e-4, eval_every: 2}
checkpoints: {every: 2}
tracking: {wandb: offline, tensorboard: true, num_rollouts: 3, alerts: {kl_above: 1.0e-9, steps: 1}}
"""
Records = list[dict[str, Any]]


def make_job(folder: Path) -> Job:
    path = folder / "job.yaml"
    path.write_text(f"{JOB}output_dir: {folder / 'runs'}\n")
    return load_job(path)


@pytest.fixture(scope="module")
def run_dir(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR"):
            patch.delenv(name, raising=False)
        return train_job(make_job(tmp_path_factory.mktemp("recorded")), console=Console(quiet=True))


def inspect(run_dir: Path) -> Records:
    """The records of the one wandb run in a run directory."""
    (recorded,) = run_dir.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(recorded)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines()]


@pytest.fixture(scope="module")
def records(run_dir: Path) -> Records:
    return inspect(run_dir)


def recorded(records: Records, stage: str) -> list[Metric]:
    """The declared metrics of a stage that a wandb run holds, each with the stage's step beside it."""
    axis = {"glob_name": f"{stage}/*", "step_metric": f"{stage}/step"}
    assert any(axis.items() <= record["metric"].items() for record in records if record["type"] == "metric")
    found = []
    for record in (record["history"]["item"] for record in records if record["type"] == "history"):
        for name in record:
            declared = find_metric(stage, name.removeprefix(f"{stage}/"))
            if name.startswith(f"{stage}/") and declared is not None:
                assert f"{stage}/step" in record, name
                found.append(declared[0])
    return found


def depends_on_the_answers(metric: Metric) -> bool:
    return "where" in metric.only


@pytest.mark.parametrize("stage", METRICS)
def test_a_run_records_every_documented_metric_over_its_step(records: Records, stage: str) -> None:
    found = recorded(records, stage)
    assert [m.name for m in METRICS[stage] if m not in found and not depends_on_the_answers(m)] == []


def test_what_depends_on_the_answers_is_recorded_with_a_policy_that_sees_and_plays(tmp_path: Path) -> None:
    """The solver in the place of a trained model: real groups, a real evaluation, the same way to wandb."""
    job = make_job(tmp_path)
    writer = Demonstrator(job.mixture[0].make(), {"solver": 1.0})
    evaluation = HeldOut(job, tmp_path, resume=False).measure(
        [make_engine("scripted", writer=writer)], Point("grpo", 1)
    )
    metrics = {"cold_start": evaluation, "grpo": {**evaluation, **rollout_metrics(writer)}}
    with Tracker(job, console=Console(quiet=True)) as tracker:
        for stage, found in metrics.items():
            with tracker.stage(stage, 1) as steps:
                steps.log(1, found)
    records = inspect(job.run_dir)
    for stage, declared in METRICS.items():
        found_there = recorded(records, stage)
        assert [m.name for m in declared if depends_on_the_answers(m) and m not in found_there] == []
    assert metrics["grpo"]["game/shisen_sho/tiny/legal_move_rate"] == 1.0
    assert metrics["grpo"]["reasoning_given_perception"] == metrics["grpo"]["best_move_rate"] == 1.0
    assert metrics["grpo"]["game/shisen_sho/tiny/regret"] == 0.0


def rollout_metrics(writer: Demonstrator) -> dict[str, float]:
    """What an algorithm logs of two groups that `writer` answers, and of a curriculum, through RLlib's logger."""
    import asyncio
    from types import SimpleNamespace

    from vlmgym.grpo.config import GRPOConfig
    from vlmgym.grpo.curriculum import Curriculum, Ladder, Probe
    from vlmgym.grpo.env_thread import EnvThread
    from vlmgym.grpo.group import GroupPlayer
    from vlmgym_envs.rllib import GameGroupEnv

    engine = make_engine("scripted", writer=writer)
    handle = SimpleNamespace(generate=SimpleNamespace(remote=engine.generate))
    config = GRPOConfig().debugging(seed=0)
    env = GameGroupEnv({"game": "shisen_sho", "level": "tiny", "group_size": 2})
    players = [GroupPlayer(config, EnvThread(env), handle, group, True, lambda *_: None) for group in range(2)]
    stats = [group_stats(asyncio.run(player.play())) for player in players]
    logger = MetricsLogger(root=True)
    log_group_stats(logger, stats, key="env_runners")
    curriculum = Curriculum(Ladder({"size": [{"rows": 3}, {"rows": 4}]}, 4, 0.8, 0.2))
    curriculum.record(Probe("size", 0), 1.0)
    logger.log_dict(curriculum.metrics, key=("curriculum", "shisen_sho"), window=1)
    return step_metrics("grpo", logger.reduce())


def test_nothing_else_is_recorded_as_a_number(run_dir: Path) -> None:
    for line in read_metrics(run_dir / "metrics.jsonl"):
        names = line.keys() - {"stage", "step", "time_s"}
        assert [name for name in names if find_metric(line["stage"], name) is None] == []


def test_checkpoints_are_artifacts_that_name_what_they_were_made_from(records: Records, run_dir: Path) -> None:
    found = [record["artifact"] for record in records if record["type"] == "artifact"]
    models = {each["name"]: each for each in found if each["type"] == "model"}
    assert set(models) == {"demo-cold_start", "demo-grpo"}
    first, last = (json.loads(models[f"demo-{stage}"]["metadata"]) for stage in ("cold_start", "grpo"))
    assert first["made_from"] == str(run_dir / "model") and first["step"] == 2
    assert last["made_from"] == "demo-cold_start:step-2" and last["path"].endswith("checkpoints/grpo-000002")
    files = [each["ref"] for each in models["demo-grpo"]["manifest"]["contents"]]
    assert files and all(file.startswith(f"file://{last['path']}/") for file in files)
    assert "step-2" in models["demo-grpo"]["aliases"]


def test_the_config_holds_the_job_and_where_the_code_comes_from(records: Records) -> None:
    (config,) = [record["run"]["config"]["update"] for record in records if record["type"] == "run"]
    assert config["grpo"]["iterations"] == 2 and config["game"]["id"] == "shisen_sho"
    revision = config["provenance"]["git_revision"]
    assert revision is None or len(revision) == 40
    assert config["provenance"]["libraries"]["ray"] == ray.__version__


def test_boards_films_and_a_table_of_rollouts_are_media(records: Records, run_dir: Path) -> None:
    item = next(
        record["history"]["item"]
        for record in records
        if record["type"] == "history" and "grpo/boards.count" in record["history"]["item"]
    )
    assert item["grpo/boards.count"] == 2
    (folder,) = run_dir.glob("rollouts/grpo-*")
    turns = [turn for group in read_groups(folder) for branch in group.branches for turn in branch.turns]
    assert item["grpo/rollouts.nrows"] == len(turns) >= 4
    (recorded_run,) = run_dir.glob("wandb/offline-run-*")
    (table,) = recorded_run.glob("files/media/table/grpo/rollouts*.json")
    found = json.loads(table.read_text())
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
    assert [(row["response"], row["reward"], row["advantage"]) for row in rows] == [
        (turn.response, turn.reward, turn.advantage) for turn in turns
    ]
    with Image.open(next(recorded_run.glob("files/media/images/grpo/boards*.png"))) as board:
        assert np.asarray(board.convert("RGB")).shape == (48, 64, 3)
    assert next(recorded_run.glob("files/media/videos/grpo/replays*.mp4")).stat().st_size > 1000


def test_a_broken_bound_is_an_alert(records: Records) -> None:
    """The second update is measured against a start model that the first one has moved away from."""
    assert [record["alert"]["title"] for record in records if record["type"] == "alert"] == ["KL exploded"]


def test_tensorboard_has_a_run_per_stage(run_dir: Path) -> None:
    from tensorboardX.proto import event_pb2

    for stage in METRICS:
        (file,) = (run_dir / "tensorboard" / stage).glob("events.out.tfevents.*")
        tags = set()
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            tags |= {value.tag for value in event.summary.value}
            content = content[16 + length :]
        assert {"loss", "evaluation/greedy/legal_move_rate"} <= tags


def test_prometheus_shows_the_metrics_with_their_labels(run_dir: Path) -> None:
    port = ray.nodes()[0]["MetricsExportPort"]
    metric = next(each for each in METRICS["grpo"] if each.name == "game/{game}/{level}/legal_move_rate")
    wanted = f"{RAY_PREFIX}{gauge_name(metric)}{{"
    deadline = time.monotonic() + 60
    lines: list[str] = []
    while not lines:
        assert time.monotonic() < deadline, "the endpoint shows no gauge of ours"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            lines = [line for line in page.read().decode().splitlines() if line.startswith(wanted)]
        time.sleep(0.5)
    for label in ('run="demo"', 'stage="grpo"', 'game="shisen_sho"', 'level="tiny"'):
        assert label in lines[0]
