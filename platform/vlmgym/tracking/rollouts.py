"""Decides which decisions of a batch are kept to look at, and how: as texts with a picture, and as films."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlmgym.evals.log import RunLog, StepLog
from vlmgym.evals.protocol import points
from vlmgym.evals.summary import shares_of
from vlmgym.grpo.group_stats import SCORE
from vlmgym.grpo.runner import PlayedGroup
from vlmgym_envs.core import Game
from vlmgym_policies.prompting import png

ROLLOUTS_FILE = "rollouts.jsonl"


class Rollout(NamedTuple):
    """One decision to look at. picture: PNG. board: the true one, as text. rewards: the total, its parts and regret."""

    group_id: int
    game: str
    level: str
    picture: bytes
    board: str
    prompt: str
    response: str
    refused: str | None
    rewards: Mapping[str, float]


def rollouts_of(groups: Sequence[PlayedGroup], game: Game[Any, Any, Any], num: int) -> list[Rollout]:
    """The first decision of the first `num` branches, group after group."""
    rollouts: list[Rollout] = []
    for group in groups:
        for branch in list(group.episode.agent_episodes.values())[: num - len(rollouts)]:
            before, after = branch.get_infos(0), branch.get_infos(1)
            score = after[SCORE]
            rewards = {"reward": score.reward, "game": score.game_reward, "perception_cells": score.cells}
            rewards |= {"perception_board": float(score.board), "format": float(score.well_formed)}
            if score.regret is not None:
                rewards["regret"] = score.regret
            rollouts.append(
                Rollout(
                    group_id=group.group_id,
                    game=before["game"],
                    level=before["level"],
                    picture=png(game.render(before["state"])),
                    board=game.describe(before["state"]),
                    prompt=branch.get_observations(0).messages[-1].text,
                    response=branch.get_actions(0),
                    refused=after["refused"],
                    rewards=rewards,
                )
            )
    return rollouts


def write_rollouts(folder: Path, rollouts: Sequence[Rollout]) -> None:
    """Writes rollouts.jsonl, and one PNG per different picture."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[bytes, str] = {}
    lines = []
    for rollout in rollouts:
        name = names.setdefault(rollout.picture, f"board-{len(names)}.png")
        (folder / name).write_bytes(rollout.picture)
        lines.append({**rollout._asdict(), "picture": name, "rewards": dict(rollout.rewards)})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / ROLLOUTS_FILE).write_text(text, encoding="utf-8")


def replays_of(groups: Sequence[PlayedGroup], game: Game[Any, Any, Any], num: int) -> list[RunLog]:
    """The `num` longest branches of more than one decision, as runs that can be filmed."""
    branches = [branch for group in groups for branch in group.episode.agent_episodes.values() if len(branch) > 1]
    longest = sorted(branches, key=len, reverse=True)[:num]
    return [_replay(branch, game, number) for number, branch in enumerate(longest)]


def _replay(branch: Any, game: Game[Any, Any, Any], number: int) -> RunLog:
    infos = branch.get_infos()
    texts = [game.describe(info["state"]) for info in infos]
    steps = tuple(
        StepLog(
            state=text,
            response=response,
            reward=info["raw_reward"],
            refused=info["refused"],
            well_formed=info[SCORE].well_formed,
            cells=info[SCORE].cells,
            cut=info["finish_reason"] == "length",
        )
        for text, response, info in zip(texts[:-1], branch.get_actions(), infos[1:], strict=True)
    )
    return RunLog(
        run=number,
        seed=0,
        score=sum(points(game.score, step.reward) for step in steps),
        num_steps=len(steps),
        terminated=branch.is_terminated,
        won=infos[-1]["won"],
        shares=shares_of(steps),
        num_cut=sum(step.cut for step in steps),
        steps=steps,
        end_state=texts[-1],
    )
