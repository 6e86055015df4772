"""What is measured of several games, by a policy that a test writes."""

import json

import pytest

from vlmgym.demonstrations import DemonstrationWriter
from vlmgym.grpo.tasks import Tasks
from vlmgym.held_out import HeldOut
from vlmgym.job import load_job
from vlmgym.metrics_file import Point
from vlmgym.stages import cold_start_config, grpo_config
from vlmgym.tracking.metrics import find_metric
from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_envs.splits import in_held_out
from vlmgym_policies.answers import parse_response, write_response
from vlmgym_policies.engine import make_engine
from vlmgym_policies.processing import VLMProcessor

JOB = """\
name: demo
games:
  - {id: twenty48, level: tiny, held_out: 0.2}
  - id: maze
    level: tiny
    weight: 3
    held_out: 0.2
    held_out_levels: [small]
    curriculum: {window: 4, axes: {size: [{rows: 3, cols: 3}, {rows: 5, cols: 5}]}}
model: {tiny: true}
cold_start: {updates: 10, lr: 1e-3, teacher: {legal_random: 1}}
evaluation: {num_states: 20}
"""
PLACES = ("twenty48/tiny", "maze/tiny", "maze/small")


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return load_job(path)


def solver(asked):
    """A policy that plays mazes well and 2048 not at all. asked: gets the states."""
    mazes = {level: make_game("maze", level) for level in ("tiny", "small")}

    def write(prompt, rng):
        asked.append(prompt.state)
        if not hasattr(prompt.state, "player"):
            return write_response("?", "", "none")
        game: Game = mazes["tiny" if len(prompt.state.cells) == 25 else "small"]
        return write_response(game.describe(prompt.state), "", game.format_answer(game.solve(prompt.state)))

    return make_engine("scripted", writer=write)


def test_each_game_is_measured_at_its_level_and_at_its_held_out_levels(job, tmp_path):
    asked = []
    metrics = HeldOut(job, tmp_path, resume=False).measure([solver(asked)], Point("grpo", 3))
    assert all(find_metric("grpo", name) for name in metrics)
    for mode in ("sampled", "greedy"):
        found = [metrics[f"evaluation/{mode}/game/{place}/progress_rate"] for place in PLACES]
        assert found == [0.0, 1.0, 1.0]
        assert metrics[f"evaluation/{mode}/progress_rate"] == 0.5, "games alike, whatever their weights; no other level"
    assert set(json.loads((tmp_path / "evaluations.json").read_text())) == set(PLACES)
    mazes = [state for state in asked if hasattr(state, "player")]
    assert {len(state.cells) for state in mazes} == {25, 49} and len(asked) == 3 * 2 * 20
    tiny = make_game("maze", "tiny")
    assert all(in_held_out(tiny.key(state), 0.2) for state in mazes if len(state.cells) == 25)


def test_the_best_point_is_found_for_each_game_and_way_of_decoding_by_what_its_rule_pays(job, tmp_path):
    held_out = HeldOut(job, tmp_path, resume=False)
    held_out.measure_references()
    blind = make_engine("scripted", writer=lambda prompt, rng: write_response("?", "", "up"))
    for step, engine in ((0, blind), (10, solver([])), (20, blind)):
        held_out.measure([engine], Point("cold_start", step))
    resumed = HeldOut(job, tmp_path, resume=True)
    resumed.measure([blind], Point("grpo", 1))
    summary = resumed.summary()
    assert set(summary) == set(PLACES)
    paid = {place: summary[place]["cold_start_best"]["greedy"]["progress_rate"].mean for place in PLACES}
    assert paid["maze/tiny"] == paid["maze/small"] == 1.0
    assert paid["twenty48/tiny"] == summary["twenty48/tiny"]["cold_start"]["greedy"]["progress_rate"].mean > 0.0
    for results in summary.values():
        assert set(results) == {
            *("random", "legal_random", "solver", "teacher", "untrained", "cold_start", "cold_start_best", "grpo")
        }
        assert results["teacher"]["sampled"]["legal_move_rate"].mean == 1.0


def test_no_group_and_no_demonstration_is_at_a_held_out_level_or_in_a_held_out_state(job, make_model):
    config = grpo_config(job, "m")
    env, tasks = GameGroupEnv(config.env_config), Tasks(config)
    levels = set()
    for group_id in range(60):
        task = tasks.draw(group_id)
        _, infos = env.reset(seed=group_id, options={"game": task.game, "knobs": task.knobs})
        levels.add(infos["branch_0"]["level"])
        assert not in_held_out(env.game.key(infos["branch_0"]["state"]), 0.2)
        if task.probe is not None:
            tasks._curricula[task.game].record(task.probe, 1.0)
    assert levels == {"tiny", "tiny[cols=3,rows=3]", "tiny[cols=5,rows=5]"}
    config = cold_start_config(job, "m")
    texts = VLMProcessor(str(make_model()))
    writer = DemonstrationWriter(config.make_demonstrations, str(make_model()), 1.0)
    boards = [parse_response(texts.decode(record.response_ids)).perception for record in writer.write(0, 60)]
    mazes = [board for board in boards if "player" in board]
    assert len(mazes) == 45 and {board.count("|") + board.count("\n") + 1 for board in mazes} == {9, 25}
    for board in mazes:
        side = board.count("\n") + 1
        game = make_game("maze", "tiny", rows=side, cols=side)
        assert not in_held_out(game.key(game.from_text(board)), 0.2)
