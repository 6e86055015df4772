"""A small job of three games with a curriculum: trained in one go, and once more with a stop on the way."""

import json
import threading
from collections import Counter

import pytest

from vlmgym.held_out import EVALUATIONS_FILE
from vlmgym.job import load_job
from vlmgym.tracking.group_record import read_groups
from vlmgym.tracking.metrics import find_metric
from vlmgym.train import train_job

JOB = """\
name: demo
games:
  - {id: shisen_sho, level: tiny, overrides: {rows: 2}}
  - {id: twenty48, level: tiny, num_turns: 2}
  - id: maze
    level: tiny
    weight: 2
    held_out_levels: [small]
    curriculum:
      axes: {size: [{rows: 3, cols: 3}, {rows: 3, cols: 5}, {rows: 5, cols: 5}], loops: [{loops: 0}, {loops: 50}]}
      window: 3
      promote_above: 0.5
      demote_below: 0.01
      success: legal
model: {tiny: true}
sampling: {max_tokens: 40}
env_runners: {count: 1, num_cpus: 0.5, envs_per_runner: 4}
engine: {num_cpus: 0.5, max_batch_size: 1}
evaluation: {num_states: 2}
cold_start: {updates: 60, batch_size: 16, lr: 5e-3, teacher: {legal_random: 1}, eval_every: 60}
grpo: {iterations: 6, groups: 8, group_size: 3, lr: 1e-4, eval_every: 6, advantage: reinforce_pp_baseline}
checkpoints: {every: 2}
tracking: {wandb: off, rollouts_every: 3, num_rollouts: 4, prometheus: false}
"""


def job_in(folder):
    path = folder / "job.yaml"
    path.write_text(f"{JOB}output_dir: {folder / 'runs'}\n")
    return load_job(path)


def lines_of(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {(line["stage"], line["step"]): line for line in lines}


class StopsAfter(threading.Event):
    """A stop signal that comes once a step is in the metrics file."""

    def __init__(self, run_dir, point):
        super().__init__()
        self.run_dir, self.point = run_dir, point

    def is_set(self):
        return (self.run_dir / "metrics.jsonl").exists() and self.point in lines_of(self.run_dir)


@pytest.fixture(scope="module")
def whole(ray_session, tmp_path_factory):
    return train_job(job_in(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def resumed(ray_session, tmp_path_factory):
    job = job_in(tmp_path_factory.mktemp("resumed"))
    train_job(job, stop=StopsAfter(job.run_dir, ("grpo", 3)))
    assert ("grpo", 4) not in lines_of(job.run_dir)
    return train_job(job, resume=True)


def test_every_iteration_has_each_game_by_its_share_under_declared_names(whole):
    for (stage, step), line in lines_of(whole).items():
        if stage != "grpo":
            continue
        assert all(find_metric(stage, name) for name in line.keys() - {"stage", "step", "time_s"}), step
        sums = Counter[str]()
        for name, value in line.items():
            if name.startswith("game/") and name.endswith("/num_decisions"):
                sums[name.split("/")[1]] += value
        assert sums["shisen_sho"] == 2 * 3 and sums["maze"] == 4 * 3 and 2 * 3 < sums["twenty48"] <= 2 * 3 * 2


def test_the_curriculum_moves_and_never_reaches_what_is_held_out(whole):
    lines = [line for (stage, _), line in lines_of(whole).items() if stage == "grpo"]
    steps = [line["curriculum/maze/size/step"] for line in lines]
    assert steps[0] == 0 and max(steps) >= 1 and {line["curriculum/maze/loops/step"] for line in lines} <= {0, 1}
    levels = {name.split("/")[2] for line in lines for name in line if name.startswith("game/maze/")}
    assert len(levels) > 1 and all(level.startswith("tiny-cols-") for level in levels)


def test_each_game_is_evaluated_and_the_held_out_level_too(whole):
    places = {"shisen_sho/tiny-rows-2", "twenty48/tiny", "maze/tiny", "maze/small"}
    summary = json.loads((whole / "summary.json").read_text())
    assert set(summary) == places
    assert all({"grpo", "cold_start_best", "teacher", "solver"} <= set(results) for results in summary.values())
    end = lines_of(whole)["grpo", 6]
    means = [end[f"evaluation/greedy/game/{place}/legal_move_rate"] for place in sorted(places - {"maze/small"})]
    assert end["evaluation/greedy/legal_move_rate"] == pytest.approx(sum(means) / 3)


def test_groups_of_all_games_are_kept_to_look_at(whole):
    groups = list(read_groups(whole / "rollouts" / "grpo-0003"))
    assert {group.game for group in groups} == {"shisen_sho", "twenty48", "maze"}


@pytest.mark.slow
def test_a_stop_on_the_way_changes_nothing(whole, resumed):
    one, other = lines_of(whole), lines_of(resumed)
    assert one.keys() == other.keys()
    for point, line in one.items():
        timed = {name for name in line if name.startswith(("timing_s/", "perf/")) or name == "time_s"}
        same = {name: other[point][name] for name in line.keys() - timed}
        assert same == pytest.approx({name: line[name] for name in same}, abs=1e-6, nan_ok=True), point
    evaluations = [(run_dir / EVALUATIONS_FILE).read_text() for run_dir in (whole, resumed)]
    assert evaluations[0] == evaluations[1]
