"""How a group that was played becomes its record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from vlmgym.grpo.advantages import AdvantageRule
from vlmgym.grpo.batching import RESPONSE_IDS, group_advantages
from vlmgym.grpo.group_stats import BEST_ANSWER, SCORE
from vlmgym.grpo.runner import PlayedGroup
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
)
from vlmgym_envs.core import Game


def record_group(group: PlayedGroup, game: Game[Any, Any, Any], rule: AdvantageRule, point: Point) -> GroupWithPictures:
    """The record of `group`, which `game` was played in. rule: of the advantages it was learned with, up to `point`."""
    boards = Boards(game)
    branches = list(group.episode.agent_episodes.values())
    advantages = group_advantages(group.episode, rule)
    records = tuple(_branch(game, boards, *pair) for pair in zip(branches, advantages, strict=True))
    record = GroupRecord(
        version=VERSION,
        stage=point.stage,
        step=point.step,
        group_id=group.group_id,
        game=group.stats.game,
        level=group.stats.level,
        weights_version=group.stats.weights_version,
        unit=game.value_unit,
        boards=tuple(boards.records),
        branches=records,
        **layout(game),
    )
    return GroupWithPictures(record, boards.pictures)


def _branch(
    game: Game[Any, Any, Any], boards: Boards, branch: SingleAgentEpisode, advantages: NDArray[np.float32]
) -> BranchRecord:
    turns = tuple(_turn(game, boards, branch, turn, float(value)) for turn, value in enumerate(advantages))
    end = branch.get_infos(-1)
    return BranchRecord(
        turns=turns, end=boards.add(end["state"]), terminated=bool(branch.is_terminated), won=end["won"]
    )


def _turn(
    game: Game[Any, Any, Any], boards: Boards, branch: SingleAgentEpisode, turn: int, advantage: float
) -> TurnRecord:
    state, info = branch.get_infos(turn)["state"], branch.get_infos(turn + 1)
    score = info[SCORE]
    return TurnRecord(
        board=boards.add(state, info[BEST_ANSWER]),
        refused=info["refused"],
        reward=score.reward,
        game_reward=score.game_reward,
        regret=score.regret,
        advantage=advantage,
        num_tokens=len(branch.get_extra_model_outputs(RESPONSE_IDS, turn)),
        cut=info["finish_reason"] == "length",
        **read_turn(game, state, branch.get_actions(turn)),
    )
