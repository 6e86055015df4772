"""Decides what a data set says of itself and of each of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal

from pydantic import Field

from vlmgym.evals.log import Record
from vlmgym_envs.core import Game
from vlmgym_envs.rllib import GroupEnvConfig, Reward
from vlmgym_envs.splits import Start
from vlmgym_policies.baselines import Wording
from vlmgym_policies.prompting import Observation
from vlmgym_policies.scoring import RewardWeights

VERSION = 1
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

REJECTIONS: Mapping[str, str] = {
    "failed": "the teacher gave no answer",
    "cut": "the response was cut at the token limit",
    "malformed": "one of the three blocks is missing",
    "perception": "the perception block is not exactly the board",
    "refused": "the rules refuse the move",
    "reward": "the reward is below the bound",
}
"""Why a response is not kept; the first that fits, in this order."""


class SourceRecipe(Record):
    """One game at one level, who plays it, and what its rows are worth. teacher: a mixture of the game's own teachers,
    or a policy as `vlmgym eval --policy` names it."""

    game: str
    level: str
    overrides: dict[str, Any] = Field({})
    start: Start = "mid_game"
    held_out: float = 0.1
    teacher: dict[str, float] | str
    observation: Observation = "picture"
    rule: Reward = "progress"
    reward: dict[str, float]

    @property
    def env(self) -> GroupEnvConfig:
        """Where starts are drawn from, and what a move pays. Errors: ValueError for what no environment takes."""
        return GroupEnvConfig(
            game=self.game,
            level=self.level,
            overrides=self.overrides,
            start=self.start,
            held_out=self.held_out,
            reward=self.rule,
        )

    @property
    def weights(self) -> RewardWeights:
        return RewardWeights(**self.reward)

    @property
    def name(self) -> str:
        return f"{self.game} {self.make_game().level_name}"

    def make_game(self) -> Game[Any, Any, Any]:
        return self.env.make_game()


class Recipe(Record):
    """Everything that decides what is in a data set: equal recipes give equal data sets, as far as teachers repeat
    themselves.

    num_rows: of each source. validation: the share of the states that is not for training. wording: of the game's own
    teachers. min_reward: responses below it are rejected. attempts: answers asked for per state, until one is kept.
    temperature, max_tokens: of the answers that are asked for.
    """

    version: int = VERSION
    sources: tuple[SourceRecipe, ...]
    num_rows: int
    seed: int = 0
    validation: float = 0.05
    wording: Wording = "sentences"
    min_reward: float | None = None
    attempts: int = 1
    temperature: float = 1.0
    max_tokens: int = 1024


class Counts(Record):
    """What became of the starts that were drawn for a source. repeated: in a state that was there already. asked:
    states put before the teacher. kept: rows. rejected: answers, by reason."""

    drawn: int = 0
    repeated: int = 0
    asked: int = 0
    kept: int = 0
    rejected: dict[str, int] = Field({})


class About(Record):
    """The data set as a whole. counts: per source, in the order of the recipe."""

    recipe: Recipe
    counts: tuple[Counts, ...]


class Part(Record):
    """What a message consists of; text is null where a picture stands."""

    type: Literal["image", "text"]
    text: str | None = None


class ChatMessage(Record):
    role: Literal["system", "user", "assistant"]
    content: tuple[Part, ...]


class Row(Record):
    """A demonstration.

    file_name: the picture of the state, from where the row's file lies. seed: `draw_start` gives the state for it. key:
    `Game.key` of the state, in hexadecimal. state: the exact text of the board. teacher: who answered. prompt: as chat
    templates take it. response: the three blocks; perception, think and action are what they hold. reward: as training
    counts it, game_reward its part for the move. cells: the share of the cells perceived right.
    """

    file_name: str
    game: str
    level: str
    overrides: str = Field(description="JSON")
    seed: int
    key: str
    state: str
    teacher: str
    prompt: tuple[ChatMessage, ...]
    response: str
    perception: str
    think: str
    action: str
    reward: float
    game_reward: float
    legal: bool
    cells: float


class RejectedAnswer(Record):
    """An answer that was not kept, and why: a key of `REJECTIONS`. error: of a teacher that gave none."""

    game: str
    level: str
    seed: int
    key: str
    reason: str
    response: str
    reward: float | None = None
    error: str | None = None


def split_of(key: bytes, seed: int, validation: float) -> Split:
    """For which the state with this `Game.key` is: the same for all rows of a state, at every level and in every order.

    Where a uniform number made from key and seed is below `validation`, it is for validation.
    """
    digest = blake2b(key, digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return "validation" if int.from_bytes(digest, "big") < validation * 2**64 else "train"
