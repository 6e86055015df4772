"""Run directories to look at, with groups of a policy that errs, made without training."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmgym.metrics_file import Point
from vlmgym.tracking.group_record import (
    VERSION,
    Boards,
    BranchRecord,
    GroupRecord,
    GroupWithPictures,
    TurnRecord,
    layout,
    read_turn,
    rollouts_dir,
    write_groups,
)
from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_policies.answers import write_response

AnyGame = Game[Any, Any, Any]
MakeRun = Callable[..., Path]


def make_group(
    game: AnyGame, point: Point, group_id: int, rng: np.random.Generator, num_branches: int, num_turns: int
) -> GroupWithPictures:
    """Half the answers are the solver's, and a third of the boards are written down with one cell wrong."""
    boards = Boards(game)
    start = game.mid_game(group_id)
    branches = tuple(_branch(game, boards, start, rng, num_turns) for _ in range(num_branches))
    record = GroupRecord(
        version=VERSION,
        stage=point.stage,
        step=point.step,
        group_id=group_id,
        game=game.id,
        level=game.level_name,
        weights_version=point.step - 1,
        unit=game.value_unit,
        boards=tuple(boards.records),
        branches=branches,
        **layout(game),
    )
    return GroupWithPictures(record, boards.pictures)


def _branch(game: AnyGame, boards: Boards, state: Any, rng: np.random.Generator, num_turns: int) -> BranchRecord:
    turns: list[TurnRecord] = []
    terminated = False
    while len(turns) < num_turns and not terminated:
        best = game.solve(state)
        action = best if rng.random() < 0.5 else game.random_action(rng)
        text = game.describe(state)
        if rng.random() < 0.3:
            cells = game.cells(text)
            cells[0][0] = "-" if game.cell_parts(cells[0][0]) else cells[-1][-1]
            text = "\n".join(" | ".join(row) for row in cells)
        response = write_response(text, " looks <b>right</b> to me ", game.format_answer(action))
        step = game.step(state, action)
        reward = 1.0 if step.refused is None else -1.0
        turns.append(
            TurnRecord(
                board=boards.add(state, game.format_answer(best)),
                refused=step.refused,
                reward=reward + 1.0,
                game_reward=reward,
                regret=0.0 if action == best else 1.0,
                advantage=reward * 0.7,
                num_tokens=44,
                **read_turn(game, state, response),
            )
        )
        state, terminated = step.state, step.terminated
    return BranchRecord(turns=tuple(turns), end=boards.add(state), terminated=terminated, won=None)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRun]:
    """A run directory with `num_groups` groups per iteration of Shisen-Sho, and a maze of several turns in the last."""

    def make(iterations: tuple[int, ...] = (2, 4), num_groups: int = 3, num_branches: int = 4) -> Path:
        path = tmp_path_factory.mktemp("viewed") / "demo"
        path.mkdir()
        (path / "job.yaml").write_text("name: demo  # <script>alert(1)</script>\n", encoding="utf-8")
        rng = np.random.default_rng(0)
        shisen, maze = make_game("shisen_sho", "tiny"), make_game("maze", "tiny")
        for step in iterations:
            point = Point("grpo", step)
            ids = range(step * num_groups, (step + 1) * num_groups)
            groups = [make_group(shisen, point, number, rng, num_branches, 1) for number in ids]
            if step == iterations[-1]:
                groups.append(make_group(maze, point, 9999, rng, 2, 5))
            write_groups(rollouts_dir(path, point), groups)
        lines = [
            {"stage": "grpo", "step": step, "time_s": float(step), "reward": step / 10, "legal_move_rate": step / 20}
            for step in range(1, iterations[-1] + 1)
        ]
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        return path

    yield make
