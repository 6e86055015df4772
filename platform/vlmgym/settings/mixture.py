"""Decides how the games of a job go together: what they have in common, and what they must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmgym.settings.game import CommonRewardSettings, GameSettings
from vlmgym_policies.scoring import RewardWeights


def fill_rewards(job: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a job with each game's reward whole: what it leaves out is the job's, or else the paper's."""
    written, common = job.get("reward"), dict[str, Any]()
    if isinstance(written, Mapping):
        known = CommonRewardSettings.model_fields
        common = {name: value for name, value in written.items() if value is not None and name in known}
    filled = dict(job)
    if "game" in job:
        filled["game"] = _with_reward(job["game"], common)
    if isinstance(job.get("games"), Sequence):
        filled["games"] = [_with_reward(game, common) for game in job["games"]]
    return filled


def check_mixture(games: Sequence[GameSettings]) -> None:
    """Raises ValueError for games that results could not tell apart, and for a level that is both held out and trained
    on.
    """
    names = [(game.id, game.make().level_name) for game in games]
    ids = [game.id for game in games]
    for game, name in zip(games, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"games must not hold a game twice at one level, got {' '.join(name)}")
        if game.curriculum is not None and ids.count(game.id) > 1:
            raise ValueError(f"games must hold a game with a curriculum once, got {game.id}")
        trained = [level for other in games if other.id == game.id for level in other.trained_levels()]
        for held_out in game.held_out_levels:
            if game.make().levels[held_out] in trained:
                raise ValueError(f"held_out_levels of {game.id} must not hold a level of training, got {held_out!r}")


def _with_reward(game: Any, common: Mapping[str, Any]) -> Any:
    if not isinstance(game, Mapping):
        return game
    own = game.get("reward", {})
    if not isinstance(own, Mapping):
        return game
    paper = RewardWeights.of(str(game.get("id")))
    return {**game, "reward": {**{name: getattr(paper, name) for name in paper.__slots__}, **common, **own}}
