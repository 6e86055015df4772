"""Records of groups: what is kept of a played group, by hand, and what is read back."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vlmgym.errors import BadInput
from vlmgym.grpo.advantages import AdvantageRule
from vlmgym.grpo.config import GRPOConfig
from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group import GroupPlayer
from vlmgym.grpo.group_stats import group_stats
from vlmgym.grpo.runner import PlayedGroup
from vlmgym.metrics_file import Point
from vlmgym.tracking.group_record import GroupWithPictures, read_groups, rollouts_dir, write_groups
from vlmgym.tracking.played_groups import record_group
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.answers import write_response
from vlmgym_policies.engines.scripted import ScriptedEngine
from vlmgym_policies.insight import CellError

POINT = Point("grpo", 10)


def play(game, write, **env_config) -> GroupWithPictures:
    """The record of a group of two branches on the tiny level; `write(prompt, branch, turn)` answers."""
    env = GameGroupEnv({"game": game.id, "level": "tiny", "group_size": 2, **env_config})
    asked: list[object] = []

    def answer(prompt, rng):
        asked.append(prompt)
        return write(prompt, (len(asked) - 1) % 2, (len(asked) - 1) // 2)

    engine = ScriptedEngine(answer)
    handle = SimpleNamespace(generate=SimpleNamespace(remote=engine.generate))
    config = GRPOConfig().sampling(max_tokens=64).debugging(seed=3)
    player = GroupPlayer(config, EnvThread(env), handle, 7, True, lambda *_: None)
    episode = asyncio.run(player.play())
    return record_group(PlayedGroup(7, episode, group_stats(episode)), game, AdvantageRule(), POINT)


def solved(game, state, text: str | None = None) -> str:
    return write_response(text or game.describe(state), " a pair ", game.format_answer(game.solve(state)))


def test_a_group_is_recorded_with_moves_advantages_and_errors(game) -> None:
    """Legal and well formed pays 2, an illegal one without tags -1: advantages of +-1.5 / (1.5 sqrt 2)."""
    record, pictures = play(game, lambda prompt, branch, turn: "nonsense" if branch else solved(game, prompt.state))
    good, bad = record.branches
    assert (record.stage, record.step, record.group_id, record.level) == ("grpo", 10, 7, "tiny")
    assert (record.tile_px, record.border_px) == (game.level.tile_px, game.level.border_px)
    assert (good.reward, bad.reward) == (2.0, -1.0)
    assert good.turns[0].advantage == pytest.approx(2**-0.5, abs=1e-4)
    assert bad.turns[0].advantage == pytest.approx(-(2**-0.5), abs=1e-4)
    start = record.boards[0]
    assert good.turns[0].board == bad.turns[0].board == 0
    assert good.turns[0].move == start.best == game.format_answer(game.solve(game.from_text(start.text)))
    assert good.turns[0].regret == 0.0 and good.turns[0].errors == ()
    assert bad.turns[0].move is None and bad.turns[0].refused
    assert {error.error for error in bad.turns[0].errors} == {"absent"} and len(bad.turns[0].errors) == 12
    assert bad.end == 0 and record.boards[good.end].text != start.text
    assert set(pictures) == {board.picture for board in record.boards}


def test_a_wrong_cell_is_recorded_where_it_is(game) -> None:
    def write(prompt, branch, turn):
        text = game.describe(prompt.state)
        cell = game.cells(text)[0][0]
        wrong = "-" if game.cell_parts(cell) else "Red circle"
        return solved(game, prompt.state, text.replace(cell, wrong, 1))

    turn = play(game, write).record.branches[0].turns[0]
    ((row, col, error, written),) = turn.errors
    assert (row, col) == (0, 0)
    assert (error, written) in [("missing", "-"), ("ghost", "Red circle")]


def test_the_boards_of_a_longer_branch_are_kept_once_each(game) -> None:
    record, _ = play(game, lambda prompt, branch, turn: solved(game, prompt.state), num_turns=3, start="fresh")
    first, second = record.branches
    assert [turn.board for turn in first.turns] == [turn.board for turn in second.turns] == [0, 1, 2]
    assert first.end == second.end == 3 and not first.terminated
    assert len(record.boards) == len({board.text for board in record.boards}) == 4
    assert [board.best for board in record.boards[:3]] == [turn.move for turn in first.turns]
    assert record.boards[3].best is None


def test_what_is_written_is_read_back_with_the_pictures_seen(game, tmp_path: Path) -> None:
    group = play(game, lambda prompt, branch, turn: "ünsure" if branch else solved(game, prompt.state))
    folder = rollouts_dir(tmp_path, POINT)
    write_groups(folder, [group, group])
    assert folder == tmp_path / "rollouts" / "grpo-0010"
    assert list(read_groups(folder)) == [group.record, group.record]
    with Image.open(folder / group.record.boards[0].picture) as picture:
        assert np.array_equal(np.asarray(picture), game.render(game.from_text(group.record.boards[0].text)))


@pytest.mark.parametrize("line", ['{"version": 2}', "{", '{"version": 1, "stage": "grpo"}'])
def test_a_line_that_is_no_group_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "groups.jsonl").write_text(f"{line}\n")
    with pytest.raises(BadInput, match=r"groups.jsonl, line 1 is no group"):
        list(read_groups(tmp_path))


def test_an_error_of_a_cell_survives_the_file() -> None:
    from vlmgym.tracking.group_record import TurnRecord

    turn = TurnRecord(
        board=0, response="", reward=0.0, game_reward=0.0, well_formed=False, errors=(CellError(1, 2, "absent", None),)
    )
    again = TurnRecord.model_validate_json(turn.model_dump_json(exclude_defaults=True))
    assert again.errors[0] == CellError(1, 2, "absent", None) and isinstance(again.errors[0], CellError)
