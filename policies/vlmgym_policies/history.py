"""How much of its earlier turns a prompt holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from vlmgym_policies.engine import Message, Prompt

Reach = int | Literal["all"]
"""So many of the last ones, or all."""


class Turn(NamedTuple):
    """What was asked, without what came before, and what was answered."""

    prompt: Prompt
    response: str


@dataclass(frozen=True, slots=True)
class History:
    """turns: how many earlier turns a prompt holds. pictures: how many of these hold their picture, the last ones.

    Only with "all" of both does each prompt begin with all of the one before, so that a learner may score a whole game
    as one sequence.
    """

    turns: Reach = 0
    pictures: Reach = "all"

    def __post_init__(self) -> None:
        for name in ("turns", "pictures"):
            check_reach(f"history.{name}", getattr(self, name))

    def memory(self) -> deque[Turn]:
        """Where to append the turns of an episode; keeps those that its next prompt may hold."""
        return deque(maxlen=None if self.turns == "all" else self.turns)

    def prompt(self, earlier: Iterable[Turn], now: Prompt) -> Prompt:
        """`now` as a chat that goes on after the `earlier` turns, those of a `memory`; its state is that of `now`."""
        messages: list[Message] = []
        for turn in earlier:
            messages += [*turn.prompt.messages, Message("assistant", turn.response)]
        if not messages:
            return now
        seen = [index for index, message in enumerate(messages) if message.images]
        num_kept = len(seen) if self.pictures == "all" else self.pictures
        for index in seen[: max(0, len(seen) - num_kept)]:
            messages[index] = replace(messages[index], images=())
        return replace(now, messages=(*messages, *now.messages))


def check_reach(name: str, value: object) -> None:
    """Errors: ValueError for what is no `Reach`."""
    if value != "all" and (type(value) is not int or value < 0):
        raise ValueError(f"{name} must be a whole number of at least 0 or all, got {value!r}")
