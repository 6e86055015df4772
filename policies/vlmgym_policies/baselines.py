"""Teachers and floors as policies: they read the true state, play by a game's rule, and write whole responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_policies.answers import write_response
from vlmgym_policies.engine import Prompt

Wording = Literal["terse", "sentences"]
"""How a demonstration reasons: in the few words of `Game.explain`, or as `Game.reason` does, each time worded anew."""


class Demonstrator:
    """Writes responses with exact perception, a true explanation, and the action of one of a game's teachers.

    mixture: weight per name in `game.teachers`; each response draws its teacher by weight, so that a teacher may be
    imperfect by a stated rule. Called with a prompt that carries its state, and a generator.

    Raises:
        ValueError: an unknown teacher, or weights that are negative or all zero.
    """

    def __init__(self, game: Game[Any, Any, Any], mixture: Mapping[str, float], wording: Wording = "terse") -> None:
        unknown = mixture.keys() - game.teachers.keys()
        if unknown:
            known = ", ".join(sorted(game.teachers))
            raise ValueError(f"teacher must be one of {known}, got {', '.join(sorted(unknown))}")
        total = sum(mixture.values())
        if total <= 0 or min(mixture.values()) < 0:
            raise ValueError(f"teacher weights must be at least 0 and not all 0, got {dict(mixture)}")
        self.game = game
        self._wording = wording
        self._names = sorted(mixture)
        self._shares = [mixture[name] / total for name in self._names]

    def __call__(self, prompt: Prompt, rng: np.random.Generator) -> str:
        return self.demonstrate(prompt.state, rng)

    def demonstrate(self, state: Any, rng: np.random.Generator) -> str:
        """The response text for `state`."""
        game = self.game
        teacher = game.teachers[self._names[int(rng.choice(len(self._names), p=self._shares))]]
        action = teacher(state, rng)
        terse = self._wording == "terse"
        think = game.explain(state, action) if terse else game.reason(state, action, rng)
        return write_response(game.describe(state), think, game.format_answer(action))
