"""Demonstrations out of a data set: which rows, in which order, spelled and weighed as those written on the spot."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmgym.cli import main
from vlmgym.cold_start import ColdStartConfig
from vlmgym.dataset.directory import DataSet
from vlmgym.demonstrations import DemonstrationWriter, StoredDemonstrations, TaughtDemonstrations, check_stored
from vlmgym.job import JobError, load_job
from vlmgym.stages import cold_start_config
from vlmgym_envs.registry import make_game
from vlmgym_envs.rllib import GroupEnvConfig
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import png

NUM_ROWS = 12
SHISEN = ("shisen_sho", "tiny")


def make_data(out: Path, *arguments: object) -> Path:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in ("data", "make", "--out", out, *arguments)])
    assert ended.value.code == 0
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NUM_ROWS rows each of Shisen-Sho and 2048, a third of them for validation."""
    out = tmp_path_factory.mktemp("data") / "two"
    games = ("shisen_sho:tiny", "twenty48:tiny")
    return make_data(out, *games, "--num", NUM_ROWS, "--validation", 0.33, "--wording", "terse")


def test_every_training_row_comes_once_each_time_around_in_changing_order(data: Path) -> None:
    rows = [row for row in DataSet(data).rows("train") if row.game == "shisen_sho"]
    assert 3 < len(rows) < NUM_ROWS
    stored = StoredDemonstrations(str(data), [SHISEN], seed=1)
    rounds = [[stored(index).response for index in range(r * len(rows), (r + 1) * len(rows))] for r in range(3)]
    assert all(sorted(one) == sorted(row.response for row in rows) for one in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    again = StoredDemonstrations(str(data), [SHISEN], seed=1)
    assert again(2 * len(rows) + 1).response == rounds[2][1]
    other = StoredDemonstrations(str(data), [SHISEN], seed=2)
    assert [other(index).response for index in range(len(rows))] != rounds[0]


def test_games_take_turns_by_weight_and_bring_their_own_pictures(data: Path) -> None:
    stored = StoredDemonstrations(str(data), [SHISEN, ("twenty48", "tiny")], seed=0, weights=[1.0, 3.0])
    games = {name: make_game(name, "tiny") for name in ("shisen_sho", "twenty48")}
    played = Counter[str]()
    for index in range(40):
        prompt, response = stored(index)
        name = next(name for name, game in games.items() if prompt.messages[0].text == game.prompt)
        board = response.partition("<perception>")[2].partition("</perception>")[0]
        assert prompt.images == (png(games[name].render(games[name].from_text(board))),)
        played[name] += 1
    assert played == {"shisen_sho": 10, "twenty48": 30}


def test_a_row_is_spelled_and_weighed_as_one_that_is_written_on_the_spot(
    data: Path, make_model: Callable[[int], Path]
) -> None:
    """Of the same state, question and response: the same training sequence."""
    model = str(make_model(0))
    stored = StoredDemonstrations(str(data), [SHISEN], seed=0)
    game, processor = make_game("shisen_sho", "tiny"), VLMProcessor(model)
    for index, record in enumerate(DemonstrationWriter(lambda: stored, model, answer_weight=5.0).write(0, 5)):
        prompt, response = stored(index)
        spelled = processor.spell_response(response)
        np.testing.assert_array_equal(record.response_ids, spelled.token_ids)
        np.testing.assert_array_equal(record.prompt_ids, processor.encode(prompt))
        light = processor.decode(record.response_ids[record.weights == 1.0])
        assert (set(record.weights) == {1.0, 5.0} and light.endswith("</perception>")) or "<think>" not in light
        assert record.denominator == record.weights.sum() and record.images == prompt.images
        assert game.parse(response.partition("<answer>")[2].partition("<")[0]) in game.legal_actions(
            game.from_text(response.partition("<perception>")[2].partition("<")[0])
        )


def test_sentences_can_be_written_on_the_spot_too() -> None:
    env = {"game": "shisen_sho", "level": "tiny"}
    terse, told = (
        TaughtDemonstrations(env, [{"solver": 1.0}], seed=1, wording=wording)  # type: ignore[arg-type]
        for wording in ("terse", "sentences")
    )
    assert "path" not in terse(0).response
    assert len({told(index).response.partition("<think>")[2].split(" ")[0] for index in range(20)}) > 2


@pytest.mark.parametrize(
    ("env", "observation", "message"),
    [
        ({"game": "maze", "level": "tiny"}, "picture", "has no training row of maze tiny"),
        ({"game": "shisen_sho", "level": "small"}, "picture", "has no training row of shisen_sho small"),
        ({"game": "shisen_sho", "level": "tiny"}, "text", "shows picture, and the job's prompts show text"),
        (
            {"game": "shisen_sho", "level": "tiny", "held_out": 0.6},
            "picture",
            r"states of shisen_sho .* make it with held_out 0.6",
        ),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(
    data: Path, env: dict[str, Any], observation: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_stored(str(data), [GroupEnvConfig(**env)], observation)


def test_a_job_trains_from_a_data_set_and_learns_it(data: Path, make_config: Any) -> None:
    config = make_config(ColdStartConfig(), held_out=0.1).env_runners(num_env_runners=0)
    config.demonstrations(data=str(data), demonstrations_per_update=8, updates_per_iteration=5)
    config.training(lr=3e-3)
    algorithm = config.build_algo()
    try:
        losses = [algorithm.train()["learners"]["policy"]["loss"] for _ in range(3)]
        assert losses[2] < losses[0] - 0.5
        assert algorithm.weights_version == 15
        state = algorithm.get_state()
        assert state["next_demonstration"] == 120
    finally:
        algorithm.stop()


JOB = """
name: j
games: [{{id: shisen_sho, level: tiny}}, {{id: twenty48, level: tiny, weight: 3}}]
model: {{tiny: true}}
cold_start: {{updates: 5, lr: 1e-3, {more}}}
grpo: {{lr: 1e-3}}
"""


def test_a_job_file_names_a_data_set_in_place_of_teachers(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB.format(more=f"data: {data}"))
    config = cold_start_config(load_job(file), "anywhere")
    config.validate()
    made = config.make_demonstrations
    assert isinstance(made, partial) and made.func is StoredDemonstrations
    assert made.args == (str(data), [SHISEN, ("twenty48", "tiny")]) and list(made.keywords["weights"]) == [1.0, 3.0]
    for more in (f"data: {data}, teacher: {{solver: 1}}", f"data: {data}, wording: sentences"):
        file.write_text(JOB.format(more=more))
        with pytest.raises(JobError, match="teacher and wording must be left out where data is imitated"):
            load_job(file)
