"""A job on several Ray nodes: its runners are spread, a node is lost while it trains, its groups are played again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GAMES = '--resources={"games": 1}'
JOB = """\
name: nodes
game: {id: shisen_sho, level: tiny}
model: {tiny: true}
sampling: {max_tokens: 16}
engine: {num_cpus: 0.5}
env_runners: {count: 2, num_cpus: 0.5, envs_per_runner: 8, resources: {games: 0.5}, max_per_node: 1}
grpo: {iterations: 1000, groups: 8, group_size: 3, lr: 1e-4, max_weights_lag: 1, eval_every: 1000}
evaluation: {num_states: 8}
tracking: {wandb: off, rollouts_every: 1000}
"""
WHERE = """
import json, ray
from ray._private.state import actors
ray.init(address="auto", logging_level="ERROR")
print("RUNNERS", json.dumps([a["Address"]["NodeID"] for a in actors().values()
                             if a["ActorClassName"] == "VLMEnvRunner" and a["State"] == "ALIVE"]))
"""


def start(cluster: Any, log: Path, *command: str) -> subprocess.Popen[str]:
    roots = os.pathsep.join(str(ROOT / name) for name in ("platform", "envs", "policies"))
    environment = {**cluster.client, "PYTHONPATH": roots, "RAY_ADDRESS": cluster.gcs, "VLMGYM_HOME": str(cluster.home)}
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=file, stderr=subprocess.STDOUT, text=True
        )


def steps_of(cluster: Any) -> list[dict[str, Any]]:
    path = cluster.home / "runs" / "nodes" / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [line for line in map(json.loads, lines) if line["stage"] == "grpo" and line["step"] > 0]


def runner_nodes(cluster: Any, tmp_path: Path) -> list[str]:
    """Ids of the nodes that runners live on."""
    where = tmp_path / "where"
    assert start(cluster, where, "-c", WHERE).wait(timeout=120) == 0, where.read_text()
    told = [line for line in where.read_text().splitlines() if line.startswith("RUNNERS ")]
    return json.loads(told[-1].removeprefix("RUNNERS "))


@pytest.fixture
def run(cluster: Any, tmp_path: Path) -> Iterator[Any]:
    """A head and a `node` that both have `games`, and a job that trains on them: its `process` and its `log`."""
    cluster.start_head(GAMES)
    node = cluster.add_node(GAMES)
    (tmp_path / "job.yaml").write_text(JOB)
    log = tmp_path / "log"
    process = start(cluster, log, "-m", "vlmgym", "train", str(tmp_path / "job.yaml"))
    yield SimpleNamespace(process=process, log=log, node=node)
    process.kill()
    process.wait()


def test_runners_are_spread_and_the_run_outlives_a_node(
    cluster: Any, run: Any, wait_for: Callable[..., None], tmp_path: Path
) -> None:
    wait_for(lambda: len(steps_of(cluster)) >= 2, run.process, run.log)
    runners = runner_nodes(cluster, tmp_path)
    assert len(runners) == len(set(runners)) == 2  # either node could take both

    cluster.kill(run.node)
    wait_for(lambda: steps_of(cluster)[-1]["num_groups_redone"] > 0, run.process, run.log)
    num_steps = len(steps_of(cluster))
    wait_for(lambda: len(steps_of(cluster)) >= num_steps + 3, run.process, run.log)
    steps = steps_of(cluster)
    last = steps[-1]
    assert last["num_groups_dropped"] == last["num_groups_stale"] == 0
    assert 0 <= last["num_groups_requested"] - 8 * last["step"] <= 8 * 2  # what is on its way; nothing was lost
    assert [line["step"] for line in steps] == list(range(1, last["step"] + 1))


@pytest.mark.cluster
def test_a_lost_runner_starts_again_on_a_node_that_comes_later(
    cluster: Any, run: Any, wait_for: Callable[..., None], tmp_path: Path
) -> None:
    wait_for(lambda: len(steps_of(cluster)) >= 2, run.process, run.log)
    before = set(runner_nodes(cluster, tmp_path))
    cluster.kill(run.node)
    wait_for(lambda: steps_of(cluster)[-1]["num_groups_redone"] > 0, run.process, run.log)
    wait_for(lambda: len(runner_nodes(cluster, tmp_path)) == 1, run.process, run.log)  # a node's death is told late
    (left,) = runner_nodes(cluster, tmp_path)
    cluster.add_node(GAMES)
    wait_for(lambda: len(runner_nodes(cluster, tmp_path)) == 2, run.process, run.log)
    after = set(runner_nodes(cluster, tmp_path))
    assert left in before and before & after == {left} and len(after) == 2
    num_steps = len(steps_of(cluster))
    wait_for(lambda: len(steps_of(cluster)) >= num_steps + 2, run.process, run.log)


@pytest.mark.cluster
def test_a_job_whose_head_is_lost_goes_on_from_its_checkpoint_on_the_next_head(
    cluster: Any, wait_for: Callable[..., None], tmp_path: Path
) -> None:
    head = cluster.start_head()
    log = tmp_path / "log"
    job = tmp_path / "nodes.yaml"
    job.write_text(JOB.replace(", resources: {games: 0.5}", "").replace("count: 2", "count: 1"))
    size = "grpo.iterations=12"
    command = ["-m", "vlmgym", "submit", str(job), "--working-dir", str(tmp_path), "--retries", "2", "--set", size]
    submit = start(cluster, log, *command, "--set", "checkpoints.every=2")
    try:
        wait_for(lambda: len(steps_of(cluster)) >= 5, submit, log)
        cluster.kill(head)
        num_steps = steps_of(cluster)[-1]["step"]
        assert num_steps < 12
        cluster.start_head()
        assert submit.wait(timeout=600) == 0, log.read_text()[-3000:]
    finally:
        submit.kill()
        submit.wait()
    said = log.read_text()
    assert "lost, exit code 1: the head was lost, and the job with it; going on from its last checkpoint" in said
    assert "resuming after grpo " in said
    assert [line["step"] for line in steps_of(cluster)] == list(range(1, 13))
