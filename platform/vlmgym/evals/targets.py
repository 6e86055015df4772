"""Decides what an evaluation plays: the game that is named, or all games of the run that a model comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from vlmgym import model_dirs
from vlmgym.errors import BadInput
from vlmgym.evals.log import Evaluation
from vlmgym.evals.policies import find_policy, history_of, trained_max_tokens, trained_observation
from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_policies.prompting import Observation


class Target(NamedTuple):
    """A game at a level, with some knobs changed, and the directory of its results."""

    game: str
    level: str
    knobs: dict[str, Any]
    out: Path

    def make(self) -> Game[Any, Any, Any]:
        """Errors: BadInput for a game, a level or knobs that are none."""
        try:
            make_game(self.game, self.level).level.override(self.knobs)
            return make_game(self.game, self.level, **self.knobs)
        except ValueError as error:
            raise BadInput(str(error)) from error


def find_targets(game: str | None, level: str | None, knobs: dict[str, Any], policy: str, out: Path) -> list[Target]:
    """One game by name; without, those that the run of the model `policy` was trained on and at what levels, each in a
    folder of `out` where there are several.

    Errors: BadInput for a policy that lies in no run, and for a level or knobs without a game.
    """
    if game is not None:
        return [Target(game, level or "paper", knobs, out)]
    if level is not None or knobs:
        raise BadInput("--level and --set need --game")
    trained = _trained_games(policy)
    if not trained:
        raise BadInput(f"--game is required: policy {policy!r} is no model of a run, which would say its games")
    targets = [Target(each["id"], each["level"], dict(each["overrides"]), out) for each in trained]
    if len(targets) == 1:
        return targets
    return [target._replace(out=out / f"{target.game}-{target.make().level_name}") for target in targets]


class AsTrained(NamedTuple):
    """What a model in a run directory has as it was trained, where it is None.

    default_max_tokens: for other policies.
    """

    max_tokens: int | None
    default_max_tokens: int
    observation: Observation | None
    history_turns: str | None
    history_pictures: str | None


def evaluation_of(target: Target, policy: str, as_trained: AsTrained, asked: Mapping[str, Any]) -> Evaluation:
    """asked: the other fields of the evaluation. Errors: BadInput for a policy that is none."""
    played = target.make()
    found = find_policy(policy, played)
    return Evaluation(
        game=target.game,
        level=target.level,
        overrides=target.knobs,
        knobs=json.loads(json.dumps(asdict(played.level))),
        prompt=played.prompt,
        observation=as_trained.observation or trained_observation(found) or "picture",
        score=played.score,
        policy=found,
        max_tokens=as_trained.max_tokens or trained_max_tokens(found) or as_trained.default_max_tokens,
        history=history_of(found, as_trained.history_turns, as_trained.history_pictures),
        **asked,
    )


def _trained_games(policy: str) -> list[Mapping[str, Any]]:
    if not Path(policy).is_dir():
        return []
    try:
        return model_dirs.trained_games(model_dirs.find_model_dir(Path(policy)))
    except ValueError as error:
        raise BadInput(str(error)) from error
