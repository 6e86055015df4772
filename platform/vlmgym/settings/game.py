"""Decides what is played and what a move is worth."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vlmgym.settings.section import Section
from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_envs.splits import Start
from vlmgym_policies.scoring import RewardWeights


class GameSettings(Section):
    """What is played, and where an episode starts."""

    id: str = Field(description="a game of vlmgym_envs")
    level: str = Field("paper", description="a named level of that game")
    overrides: dict[str, Any] = Field({}, description="knobs of the level to change")
    start: Start = Field("mid_game", description="where an episode starts")
    num_turns: int = Field(1, ge=1, description="decisions per episode")
    held_out: float = Field(0.1, gt=0, lt=1, description="fraction of all states kept for evaluation")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        self.make()
        return self

    def make(self) -> Game[Any, Any, Any]:
        """The game at its level. Errors: ValueError for an unknown name or a value outside its rule."""
        make_game(self.id, self.level).level.override(self.overrides)
        return make_game(self.id, self.level, **self.overrides)


class RewardSettings(Section):
    """What a move is worth, and the weights of the reward's parts; left out, they are the paper's for the game."""

    rule: Literal["progress", "legal", "raw"] = Field(
        "progress",
        description="+1 for a move that the game rewards, or for any legal one, else -1; or the game's reward",
    )
    game: float = Field(ge=0, description="weight of what the move is worth")
    perception: float = Field(ge=0, description="weight of 1 for a perception block that is exactly the board")
    format: float = Field(ge=0, description="weight of 1 for a response with all three tag pairs")

    @property
    def weights(self) -> RewardWeights:
        return RewardWeights(self.game, self.perception, self.format)
