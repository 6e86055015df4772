import json
from functools import partial
from typing import Any

import numpy as np
import pytest

from vlmgym.benchmarks import envs
from vlmgym.benchmarks.envs import levels_to_measure, measure_steps, measure_training_step, sample_answers
from vlmgym.cli import main
from vlmgym_envs import game_ids, level_ids, make_game
from vlmgym_policies.scoring import RewardWeights, judge

STEP = {"game": str, "level": str, "num_envs": int, "pictures": bool, "env_steps_per_cpu_s": float}
TRAINING_STEP = {"game": str, "level": str, "states": int, "answers": int, "cpu_s": float}


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return ended.value.code


@pytest.fixture
def four_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "measure_training_step", partial(measure_training_step, num_states=4))


def test_json_has_every_figure_and_nothing_else_is_printed(
    four_states: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("envs", "--json", "--games", "shisen_sho", "--levels", "tiny", "--seconds", "0.02") == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert printed.err == ""
    assert list(figures) == ["step", "legal_step", "training_step", "training_step_parts"]
    for key in ("step", "legal_step"):
        assert [{name: type(value) for name, value in row.items()} for row in figures[key]] == [STEP] * 4
        assert {(row["game"], row["level"]) for row in figures[key]} == {("shisen_sho", "tiny")}
        assert [(row["num_envs"], row["pictures"]) for row in figures[key]] == [
            (1, False),
            (1, True),
            (32, False),
            (32, True),
        ]
        assert all(100 < row["env_steps_per_cpu_s"] < 10_000_000 for row in figures[key])
    (row,) = figures["training_step"]
    assert {name: type(value) for name, value in row.items()} == TRAINING_STEP
    assert (row["game"], row["level"], row["states"], row["answers"]) == ("shisen_sho", "tiny", 4, 5)
    (parts,) = figures["training_step_parts"]
    summed = sum(parts[name] for name in ("draw_cpu_s", "picture_cpu_s", "score_cpu_s"))
    assert row["cpu_s"] == pytest.approx(summed, abs=1e-5)
    assert 0 < row["cpu_s"] < 10 and parts["png_cpu_s"] > 0


def test_without_json_there_are_two_tables(four_states: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("envs", "--games", "shisen_sho", "--levels", "tiny", "--seconds", "0.02") == 0
    steps, training_step = capsys.readouterr().out.split("A training step")
    rows = [line.split() for line in steps.splitlines() if "shisen_sho" in line]
    assert [row[:4] for row in rows] == [
        ["shisen_sho", "tiny", envs, pictures] for envs in ("1", "32") for pictures in ("no", "yes")
    ]
    (row,) = [line.split() for line in training_step.splitlines() if "shisen_sho" in line]
    assert row[:5] == ["shisen_sho", "tiny", "4", "x", "5"]


def test_paper_and_larger_boards_are_measured_unless_asked_otherwise() -> None:
    assert levels_to_measure(["shisen_sho"], ["tiny"]) == [("shisen_sho", "tiny")]
    default = levels_to_measure([], [])
    assert {game for game, _ in default} == set(game_ids())
    for game in game_ids():
        measured = [level for owner, level in default if owner == game]
        assert measured[0] == "paper" and "tiny" not in measured
        assert ("large" in measured) == ("large" in level_ids(game))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--games", "shisen_sho,chess"], "unknown game 'chess'"),
        (["--levels", "papr"], "unknown level 'papr', did you mean 'paper'?"),
        (["--seconds", "0"], "Input should be greater than or equal to 0.01"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run("envs", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_choosing_actions_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that playing moves by 1/64 s and choosing by 9 s: 64 steps a second."""
    now_s = [0.0]

    def slow(method: Any, seconds: float) -> Any:
        def slowed(self: Any, action: Any) -> Any:
            now_s[0] += seconds
            return method(self, action)

        return slowed

    monkeypatch.setattr(envs, "process_time", lambda: now_s[0])
    monkeypatch.setattr(envs._RulesPlayer, "play", slow(envs._RulesPlayer.play, 1 / 64))
    monkeypatch.setattr(envs._RulesPlayer, "encode", slow(envs._RulesPlayer.encode, 9.0))
    figure = measure_steps("shisen_sho", "tiny", 32, pictures=False, legal=True, seconds=5.0)
    assert figure == ("shisen_sho", "tiny", 32, False, 64.0)


@pytest.mark.parametrize("pictures", [False, True])
def test_games_that_end_start_again(monkeypatch: pytest.MonkeyPatch, pictures: bool) -> None:
    """A tiny game lasts 6 legal moves at most, so 60 steps need 10 starts."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(envs, "process_time", lambda: float(next(ticks)))
    player = envs._GymPlayer if pictures else envs._RulesPlayer
    game = make_game("shisen_sho", "tiny")
    starts = []
    init = type(game).init
    monkeypatch.setattr(type(game), "init", lambda self, seed: starts.append(seed) or init(self, seed))
    chosen = []
    play = player.play
    monkeypatch.setattr(player, "play", lambda self, action: chosen.append(self.state) or play(self, action))
    measure_steps("shisen_sho", "tiny", 1, pictures=pictures, legal=True, seconds=50)
    assert len(chosen) == 60 and len(set(starts)) == len(starts) >= 10
    assert all(game.legal_actions(state) for state in chosen)


@pytest.mark.parametrize("game_id", game_ids())
def test_answers_are_as_good_and_bad_as_a_models(game_id: str) -> None:
    game = make_game(game_id, "tiny")
    rng = np.random.default_rng(0)
    scores = []
    for seed in range(4):
        state = game.mid_game(seed)
        answers = sample_answers(game, state, rng)
        scores.append([judge(game, state, next(answers), RewardWeights.of(game_id)) for _ in range(5)])
    right, misread, anything, nameless, cut = zip(*scores, strict=True)
    assert all(score.legal and score.board and score.well_formed for score in right)
    assert all(score.legal and score.well_formed for score in misread) and not all(score.board for score in misread)
    assert all(score.board and score.well_formed for score in anything)
    assert not any(score.legal for score in nameless) and all(score.well_formed for score in nameless)
    assert not any(score.legal or score.well_formed for score in cut)


def test_a_training_step_scores_every_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    monkeypatch.setattr(envs, "judge", lambda game, state, text, weights: scored.append(text))
    measure_training_step("shisen_sho", "tiny", num_states=16, num_answers=3)
    warm_up = 16 // 16
    assert len(scored) == 3 * (warm_up + envs.TRAINING_REPEATS * 16)
