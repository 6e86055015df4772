"""Which games an evaluation plays."""

import json
from pathlib import Path

import pytest

from vlmgym.errors import BadInput
from vlmgym.evals.targets import find_targets
from vlmgym.job import load_job, save_job
from vlmgym.run_dir import JOB_FILE

GAMES = "games: [{id: maze, level: tiny}, {id: twenty48, level: small, overrides: {rows: 3}}]"


@pytest.fixture
def run(tmp_path: Path):
    """A run directory with one checkpoint of a model, by the games of its job."""

    def make(games: str) -> Path:
        (tmp_path / "job.yaml").write_text(f"name: demo\n{games}\nmodel: {{tiny: true}}\n")
        path = tmp_path / "run"
        model = path / "checkpoints" / "grpo-000002" / "hf"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps({}))
        save_job(load_job(tmp_path / "job.yaml"), path / JOB_FILE)
        return model

    return make


def test_a_game_that_is_named_is_played_at_its_level(tmp_path):
    (target,) = find_targets("maze", None, {"rows": 7}, "solver", tmp_path)
    assert target == ("maze", "paper", {"rows": 7}, tmp_path) and target.make().level.rows == 7


def test_a_model_of_a_run_plays_all_games_of_its_job_in_folders_of_their_own(run, tmp_path):
    targets = find_targets(None, None, {}, str(run(GAMES)), tmp_path)
    assert targets == [
        ("maze", "tiny", {}, tmp_path / "maze-tiny"),
        ("twenty48", "small", {"rows": 3}, tmp_path / "twenty48-small[rows=3]"),
    ]


def test_a_run_of_one_game_needs_no_folder(run, tmp_path):
    assert find_targets(None, None, {}, str(run("game: {id: maze}")), tmp_path) == [("maze", "paper", {}, tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, {}, "solver"), "--game is required: policy 'solver' is no model of a run"),
        ((None, "tiny", {}, "solver"), "--level and --set need --game"),
        ((None, None, {"rows": 3}, "solver"), "--level and --set need --game"),
    ],
)
def test_what_is_missing_is_told(tmp_path, arguments, message):
    with pytest.raises(BadInput, match=message):
        find_targets(*arguments, tmp_path)


def test_a_directory_without_a_model_is_told(tmp_path):
    with pytest.raises(BadInput, match="holds no model"):
        find_targets(None, None, {}, str(tmp_path), tmp_path)
