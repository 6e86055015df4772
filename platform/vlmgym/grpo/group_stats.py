"""What is told of groups: means over groups, and what their decisions show, per game and level."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
)

from vlmgym.grpo.batching import NUM_CUT_TURNS, RESPONSE_IDS, WEIGHTS_VERSION
from vlmgym.grpo.variants import Success
from vlmgym_policies.insight import Tally
from vlmgym_policies.scoring import Score

SCORE = "score"
BEST_ANSWER = "best_answer"
GAME = "game"


class GroupStats(NamedTuple):
    """Means over the decisions of one group, except where named otherwise.

    tally: sums over its decisions. num_won: of its branches, None where the game does not say.
    """

    game: str
    level: str
    return_mean: float
    return_std: float
    game_reward: float
    response_tokens: float
    truncated_rate: float
    cut_prompt_rate: float
    num_decisions: int
    num_branches: int
    num_won: int | None
    tally: Tally
    weights_version: int


def group_stats(episode: MultiAgentEpisode) -> GroupStats:
    """What happened in a group, read from its episode."""
    branches = list(episode.agent_episodes.values())
    returns = [branch.get_return() for branch in branches]
    infos = [info for branch in branches for info in branch.get_infos(slice(1, None))]
    scores: list[Score] = [info[SCORE] for info in infos]
    start = branches[0].get_infos(0)
    return GroupStats(
        game=start["game"],
        level=start["level"],
        return_mean=float(np.mean(returns)),
        return_std=float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
        game_reward=float(np.mean([s.game_reward for s in scores])),
        response_tokens=float(np.mean([len(ids) for ids in _outputs(branches, RESPONSE_IDS)])),
        truncated_rate=float(np.mean([info["finish_reason"] == "length" for info in infos])),
        cut_prompt_rate=float(np.mean([num > 0 for num in _outputs(branches, NUM_CUT_TURNS)])),
        num_decisions=len(scores),
        num_branches=len(branches),
        num_won=_num_won([branch.get_infos(-1)["won"] for branch in branches]),
        tally=_sum(score.tally for score in scores),
        weights_version=min(_outputs(branches, WEIGHTS_VERSION)),
    )


def log_group_stats(metrics: Any, groups: Sequence[GroupStats], *, key: str | None) -> None:
    """Logs means over groups and counts, under RLlib's names where it has one; then each game and level apart.

    Shares are over all decisions, so that a long game counts more than a short one.
    """
    values = {name: np.mean([getattr(g, name) for g in groups]) for name in ("game_reward", "response_tokens")}
    values |= {name: np.mean([getattr(g, name) for g in groups]) for name in ("truncated_rate", "cut_prompt_rate")}
    values["group_return_std"] = np.mean([g.return_std for g in groups])
    values["zero_std_fraction"] = np.mean([g.return_std == 0.0 for g in groups])
    values[EPISODE_RETURN_MEAN] = np.mean([g.return_mean for g in groups])
    values[EPISODE_LEN_MEAN] = np.mean([g.num_decisions for g in groups])
    rates = _sum(g.tally for g in groups).rates
    rates.pop("regret", None)  # its unit is the game's
    metrics.log_dict({**{name: float(value) for name, value in values.items()}, **rates}, key=key, window=1)
    num_steps = sum(g.num_decisions for g in groups)
    metrics.log_dict({NUM_EPISODES: len(groups), NUM_ENV_STEPS_SAMPLED: num_steps}, key=key, reduce="sum")
    lifetime = (key, NUM_ENV_STEPS_SAMPLED_LIFETIME) if key else NUM_ENV_STEPS_SAMPLED_LIFETIME
    metrics.log_value(lifetime, num_steps, reduce="lifetime_sum")
    for game, level in sorted({(g.game, g.level) for g in groups}):
        place = (GAME, game, level_key(level))
        of_level = [g for g in groups if (g.game, g.level) == (game, level)]
        metrics.log_dict(_level_metrics(of_level), key=(key, *place) if key else place, window=1)


def success_rate(stats: GroupStats, success: Success) -> float:
    """Of one group. Raises: ValueError for "solved" in a game that does not say whether it was won."""
    if success == "solved":
        if stats.num_won is None:
            raise ValueError(f"success must be progress or legal in {stats.game}, which is never won, got 'solved'")
        return stats.num_won / stats.num_branches
    return stats.tally.rates["progress_rate" if success == "progress" else "legal_move_rate"]


def level_key(level: str) -> str:
    """The name of a level as a part of a metric's name.

    >>> level_key("paper[cols=4,rows=4]")
    'paper-cols-4-rows-4'
    """
    return re.sub(r"[^\w.]+", "-", level).strip("-")


def _level_metrics(groups: Sequence[GroupStats]) -> dict[str, float]:
    """Of groups of one game at one level."""
    found = _sum(g.tally for g in groups).rates
    found["game_reward"] = float(np.mean([g.game_reward for g in groups]))
    found["num_decisions"] = float(sum(g.num_decisions for g in groups))
    wins = [g.num_won for g in groups if g.num_won is not None]
    if wins:
        found["solve_rate"] = sum(wins) / sum(g.num_branches for g in groups)
    return found


def _num_won(said: Sequence[bool | None]) -> int | None:
    """A branch whose last answer was refused did not win; None where no branch says."""
    return None if all(won is None for won in said) else sum(won is True for won in said)


def _sum(tallies: Iterable[Tally]) -> Tally:
    return reduce(Tally.plus, tallies, Tally())


def _outputs(branches: Sequence[SingleAgentEpisode], key: str) -> list[Any]:
    """One per decision. A buffer of RLlib that is iterated itself ends by writing all it holds into an error."""
    return [output for branch in branches for output in branch.get_extra_model_outputs(key)]
