"""Decides what is played and what a move is worth: one game, or a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vlmgym.settings.curriculum import CurriculumSettings
from vlmgym.settings.section import Section
from vlmgym_envs.core import Game, Level
from vlmgym_envs.names import unknown_name
from vlmgym_envs.registry import make_game
from vlmgym_envs.splits import Start
from vlmgym_policies.scoring import RewardWeights

Rule = Literal["progress", "legal", "raw"]
Teacher = dict[str, Annotated[float, Field(ge=0)]]
_RULE = "+1 for a move that the game rewards, or for any legal one, else -1; or the game's reward"
_GAME = "weight of what the move is worth"
_PERCEPTION = "weight of 1 for a perception block that is exactly the board"
_FORMAT = "weight of 1 for a response with all three tag pairs"


class RewardSettings(Section):
    """What a move is worth, and the weights of the reward's parts; left out, they are the paper's for the game."""

    rule: Rule = Field("progress", description=_RULE)
    game: float = Field(ge=0, description=_GAME)
    perception: float = Field(ge=0, description=_PERCEPTION)
    format: float = Field(ge=0, description=_FORMAT)

    @property
    def weights(self) -> RewardWeights:
        return RewardWeights(self.game, self.perception, self.format)

    @property
    def paid_rate(self) -> str:
        """The rate that says how often a decision earns what the rule pays for."""
        return "legal_move_rate" if self.rule == "legal" else "progress_rate"


class CommonRewardSettings(Section):
    """What moves are worth in every game that does not say otherwise; left out, it is as the game has it."""

    rule: Rule | None = Field(None, description=_RULE)
    game: float | None = Field(None, ge=0, description=_GAME)
    perception: float | None = Field(None, ge=0, description=_PERCEPTION)
    format: float | None = Field(None, ge=0, description=_FORMAT)


class GameSettings(Section):
    """What is played, and where an episode starts."""

    id: str = Field(description="a game of vlmgym_envs")
    level: str = Field("paper", description="a named level of that game")
    overrides: dict[str, Any] = Field({}, description="knobs of the level to change")
    start: Start = Field("mid_game", description="where an episode starts")
    num_turns: int = Field(1, ge=1, description="decisions per episode")
    held_out: float = Field(0.1, gt=0, lt=1, description="fraction of all states kept for evaluation")
    weight: float = Field(1.0, gt=0, description="its share of groups and demonstrations, against the other games'")
    reward: RewardSettings
    teacher: Teacher | None = Field(None, description="of the cold start, in place of cold_start.teacher")
    curriculum: CurriculumSettings | None = None
    held_out_levels: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="named levels to evaluate on besides, which training never plays"
    )

    @model_validator(mode="after")
    def _exists(self) -> Self:
        self.trained_levels()
        levels = self.make().levels
        for name in self.held_out_levels:
            if name not in levels:
                raise unknown_name(f"level of {self.id}", name, levels)
        if self.teacher is not None:
            self.check_teacher(self.teacher)
        return self

    def trained_levels(self) -> list[Level]:
        """Every level that training can play. Errors: ValueError where a combination of steps is no level."""
        return [self.make(**knobs).level for knobs in self.knobs_in_training()]

    def knobs_in_training(self) -> list[dict[str, Any]]:
        """Every set of knobs that training can put over the level."""
        return [{}] if self.curriculum is None else self.curriculum.combinations()

    def evaluated(self) -> list[Game[Any, Any, Any]]:
        """The game as it is evaluated: at its level, then at those that are held out."""
        return [self.make(), *(make_game(self.id, name) for name in self.held_out_levels)]

    def check_teacher(self, teacher: Mapping[str, float]) -> None:
        """Raises ValueError for one that this game does not have, and where nobody teaches."""
        teachers = self.make().teachers
        for name in teacher:
            if name not in teachers:
                raise unknown_name("teacher", name, teachers)
        if sum(teacher.values()) <= 0:
            raise ValueError(f"teacher needs a weight above 0 for {self.id}")

    def make(self, **knobs: Any) -> Game[Any, Any, Any]:
        """The game at its level, `knobs` over its own. Errors: ValueError for an unknown name or a value outside its
        rule.
        """
        changes = {**self.overrides, **knobs}
        make_game(self.id, self.level).level.override(changes)
        return make_game(self.id, self.level, **changes)
