"""Decides what a game is: pure rules over frozen states, one picture and one exact text per state.

A game is bound to its level and holds nothing that changes. A state is a hashable value that holds everything, so
keeping one is a fork: the same (state, action) gives the same next state, in every process.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.level import Level

__all__ = ["Game", "InvalidAnswer", "Level", "Step", "Teacher"]

L = TypeVar("L", bound=Level)
S = TypeVar("S", bound=Hashable)
A = TypeVar("A")

Teacher = Callable[[S, np.random.Generator], A]
"""Picks an action for a state; all its randomness comes from the generator."""


WON_KEYS = ("cleared", "solved", "reached")
"""What games call it, in the info of a step, when the player has won."""


class InvalidAnswer(ValueError):
    """An answer text that names no action; says what was wrong with it."""


class Step(NamedTuple, Generic[S]):
    """What an action led to. A refused one: the same state, reward 0.0, not terminated, info {"refused": reason}."""

    state: S
    reward: float
    terminated: bool
    info: Mapping[str, object]

    @property
    def won(self) -> bool | None:
        """Whether the player has won; None where the game does not say."""
        said = [bool(self.info[key]) for key in WON_KEYS if key in self.info]
        return any(said) if said else None

    @property
    def refused(self) -> str | None:
        """Why the rules refused the action; None for a legal one."""
        reason = self.info.get("refused")
        return None if reason is None else str(reason)


class Game(ABC, Generic[L, S, A]):
    """The rules of one game at one level. Subclasses live in games/<id>.py, one per file.

    score: what a played game is worth: the sum of its rewards, where they are points, or its steps that paid something.
    value_unit: what `value` counts.
    """

    id: ClassVar[str]
    level_class: ClassVar[type[Level]]
    levels: ClassVar[Mapping[str, Level]]
    score: ClassVar[Literal["reward_sum", "positive_steps"]] = "positive_steps"
    value_unit: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.id = cls.__module__.rpartition(".")[2]

    def __init__(self, level: L, level_name: str = "custom") -> None:
        self.level = level
        self.level_name = level_name

    @abstractmethod
    def init(self, seed: int) -> S:
        """A fresh start, with at least one legal action."""

    @abstractmethod
    def mid_game(self, seed: int) -> S:
        """A state from the middle of a game, the late game included, with at least one legal action left."""

    @abstractmethod
    def legal_actions(self, state: S) -> list[A]:
        """Every action the rules accept, in a fixed order; empty only where the game is over."""

    @abstractmethod
    def step(self, state: S, action: A) -> Step[S]:
        """Plays `action`. Never raises for an illegal one and never changes `state`."""

    @abstractmethod
    def render(self, state: S) -> NDArray[np.uint8]:
        """The picture a player sees, uint8 [H, W, 3] as in `image_shape`."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3), the same for every state of this level."""

    @abstractmethod
    def describe(self, state: S) -> str:
        """The exact perception text of the picture."""

    @abstractmethod
    def from_text(self, text: str) -> S:
        """The inverse of `describe`, also for a board that no game would deal.

        Errors: ValueError that names the row, the column and what stands there.
        """

    def cells(self, text: str) -> list[list[str]]:
        """Splits a perception text, also a wrong one, into stripped cells; any number of rows and columns."""
        return [[cell.strip() for cell in line.split("|")] for line in text.strip("\n").split("\n")]

    @abstractmethod
    def cell_parts(self, cell: str) -> tuple[str, ...] | None:
        """What a stripped cell says, part by part: ("Red", "circle"), () where nothing is; None for no cell of here."""

    @abstractmethod
    def parse(self, answer: str) -> A:
        """The action that an answer text names; InvalidAnswer where it names none. Legality is for `step` to say."""

    @abstractmethod
    def format_answer(self, action: A) -> str:
        """The inverse of `parse`."""

    @abstractmethod
    def solve(self, state: S) -> A | None:
        """The action of the best teacher this game has; None only where no action is legal."""

    @abstractmethod
    def value(self, state: S, action: A | None) -> float:
        """What a legal action is worth to the solver, in `value_unit`; more is better. None: an answer that is refused.

        Only differences between the actions of one state mean something. May take as long as `solve`.
        """

    @abstractmethod
    def explain(self, state: S, action: A) -> str:
        """A short truthful reasoning that leads from the picture to `action`, for demonstrations: in as few words as
        carry it, always the same ones."""

    def reason(self, state: S, action: A, rng: np.random.Generator) -> str:
        """The same in sentences that name why, worded by chance, for a model that knows a language.

        Here those of `explain`; a game that words its own has a module in reasons/.
        """
        return self.explain(state, action)

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The instruction: rules, board text, action and answer format. One statement per line, at most 12 lines."""

    @property
    @abstractmethod
    def action_space(self) -> gym.Space[Any]:
        """The Gymnasium space of all actions, legal or not."""

    @abstractmethod
    def from_space(self, sample: Any) -> A:
        """The action that an element of `action_space` stands for."""

    @abstractmethod
    def to_space(self, action: A) -> Any:
        """The inverse of `from_space`."""

    @abstractmethod
    def random_action(self, rng: np.random.Generator) -> A:
        """Uniform over all actions that `action_space` holds, legal or not."""

    def play(self, state: S, answer: str) -> Step[S]:
        """Plays an answer text; one that names no action is refused with what was wrong with it."""
        try:
            action = self.parse(answer)
        except InvalidAnswer as error:
            return Step(state, 0.0, False, {"refused": str(error)})
        return self.step(state, action)

    @property
    def teachers(self) -> Mapping[str, Teacher[S, A]]:
        """Who can demonstrate this game, by name. Games add their own."""
        return {
            "solver": lambda state, rng: self._playable(state, self.solve(state)),
            "greedy": self._greedy,
            "legal_random": self._legal_random,
            "random": lambda state, rng: self.random_action(rng),
        }

    def key(self, state: S) -> bytes:
        """16 bytes that stand for everything a player can see; the same in every process."""
        return blake2b(self.describe(state).encode(), digest_size=16).digest()

    def _legal_random(self, state: S, rng: np.random.Generator) -> A:
        actions = self.legal_actions(state)
        return self._playable(state, actions[int(rng.integers(len(actions)))] if actions else None)

    def _greedy(self, state: S, rng: np.random.Generator) -> A:
        """Uniform over the legal actions that pay most at once."""
        actions = self.legal_actions(state)
        rewards = [self.step(state, action).reward for action in actions]
        best = [action for action, reward in zip(actions, rewards, strict=True) if reward == max(rewards)]
        return self._playable(state, best[int(rng.integers(len(best)))] if best else None)

    def _playable(self, state: S, action: A | None) -> A:
        if action is None:
            raise ValueError(f"no legal action is left in this state of {self.id}:\n{self.describe(state)}")
        return action
