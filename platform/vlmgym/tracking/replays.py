"""Decides which branches of a batch are filmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vlmgym.evals.log import RunLog, StepLog
from vlmgym.evals.protocol import points
from vlmgym.evals.summary import shares_of
from vlmgym.grpo.group_stats import SCORE
from vlmgym.grpo.runner import PlayedGroup
from vlmgym_envs.core import Game


class Replay(NamedTuple):
    """A branch as a run that can be filmed, and the game that it was played in."""

    game: Game[Any, Any, Any]
    run: RunLog


def replays_of(
    groups: Sequence[PlayedGroup], game_of: Callable[[PlayedGroup], Game[Any, Any, Any]], num: int
) -> list[Replay]:
    """The `num` longest branches of more than one decision. game_of: what a group was played in."""
    branches = [(b, group) for group in groups for b in group.episode.agent_episodes.values() if len(b) > 1]
    longest = sorted(branches, key=lambda pair: len(pair[0]), reverse=True)[:num]
    games = [(branch, game_of(group)) for branch, group in longest]
    return [Replay(game, _replay(branch, game, number)) for number, (branch, game) in enumerate(games)]


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
