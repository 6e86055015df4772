"""Decides which states are for training and which are held out, and draws the start of an episode from either."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_envs.names import unknown_name

S = TypeVar("S")

Start = Literal["fresh", "mid_game"]
Split = Literal["train", "held_out", "all"]

MAX_TRIES = 10_000
"""Starts drawn before a split counts as empty. With a fraction of 0.01, a miss has probability e^-100."""


def in_held_out(key: bytes, fraction: float) -> bool:
    """Whether the state with this `Game.key` is held out: a uniform number made from the key is below `fraction`.

    Depends on nothing but the key, so the same picture is on the same side in every run.
    """
    return int.from_bytes(key[:8], "big") < fraction * 2**64


def draw_start(
    game: Game[Any, S, Any], seed: int, start: Start = "mid_game", split: Split = "train", held_out: float = 0.1
) -> S:
    """A start state of the split: the first of a stream of starts, derived from `seed`, that lies in it.

    start: "fresh" for `Game.init`, "mid_game" for `Game.mid_game`. held_out: the fraction of states held out.
    Errors: ValueError for a bad argument, or where MAX_TRIES starts hold no state of the split.
    """
    check_split(start, split, held_out)
    draw = game.init if start == "fresh" else game.mid_game
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    for _ in range(MAX_TRIES):
        state = draw(int(rng.integers(2**63)))
        if split == "all" or in_held_out(game.key(state), held_out) == (split == "held_out"):
            return state
    raise ValueError(f"no {split} state in {MAX_TRIES} {start} starts of {game.id} with held_out {held_out}")


def reset_state(
    game: Game[Any, S, Any],
    seed: int,
    options: Mapping[str, Any] | None,
    start: Start,
    split: Split,
    held_out: float,
) -> S:
    """What `reset` of an environment starts at: options {"state_text": text} set the state, else `draw_start` does.

    Errors: ValueError for another option and for a text that `Game.from_text` refuses.
    """
    for name in options or {}:
        if name != "state_text":
            raise unknown_name("reset option", name, ["state_text"])
    if options:
        return game.from_text(options["state_text"])
    return draw_start(game, seed, start, split, held_out)


def check_split(start: str, split: str, held_out: float) -> None:
    """Raises ValueError for a start, a split or a fraction that `draw_start` cannot use."""
    if start not in get_args(Start):
        raise unknown_name("start", start, get_args(Start))
    if split not in get_args(Split):
        raise unknown_name("split", split, get_args(Split))
    if not 0.0 <= held_out < 1.0:
        raise ValueError(f"held_out must be in 0..1 and below 1, got {held_out}")
    if split == "held_out" and held_out == 0.0:
        raise ValueError("held_out must be above 0 for the split 'held_out', got 0.0")
