"""Why a direction of 2048 is right: what merges, what it pays, and what the other directions would."""

from typing import Any

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_envs.games._directions import DIRECTIONS
from vlmgym_envs.games._merging import Moves
from vlmgym_envs.reasons.wording import Templates, count, join, refusal, say

MERGES: Templates = (
    "Moving {direction} merges {merges}, which pays {points}.",
    "With {direction}, there are merges in {merges}; that pays {points}.",
    "If the tiles slide {direction}, these meet: {merges}. The move pays {points}.",
)
SLIDES: Templates = (
    "Moving {direction} merges nothing, so it pays 0.",
    "If the tiles slide {direction}, no two merge; it pays 0.",
    "With {direction}, no equal tiles meet; that pays 0.",
)
OTHERS: Templates = (
    "For comparison: {others}.",
    "Of the other moves, {others}.",
    "I also look at the rest: {others}.",
)
ONLY: Templates = ("No other direction moves a tile.", "It is the only legal move.")
MOST: Templates = ("No move pays more.", "That is the most that any move pays.")
EMPTIEST: Templates = (
    "It leaves {empty} before the new tile comes, and no move leaves more.",
    "Before the new tile, {empty} are left, the most that any move leaves.",
)
AHEAD: Templates = (
    "Looking at what may come next, it leaves the best board.",
    "One move further ahead, it promises the most.",
)


def reason(game: Game[Any, Any, int], state: Any, action: int, rng: np.random.Generator) -> str:
    refused = refusal(game, state, action, rng)
    if refused is not None:
        return refused
    direction, merges = DIRECTIONS[action], _merges(game, state, action)
    points = {legal: int(game.step(state, legal).reward) for legal in game.legal_actions(state)}
    paid = say(rng, MERGES, direction=direction, merges=join(merges), points=points[action]) if merges else ""
    told = paid or say(rng, SLIDES, direction=direction)
    if len(points) == 1:
        return f"{told} {say(rng, ONLY)}"
    others = [f"{DIRECTIONS[other]} pays {paid}" for other, paid in points.items() if other != action]
    return " ".join([told, say(rng, OTHERS, others=join(others)), *_advantage(game, state, action, points, rng)])


def _merges(game: Game[Any, Any, int], state: Any, action: int) -> list[str]:
    """What merges where: "row 0: 2 + 2"."""
    slides = Moves(game.level.rows, game.level.cols).slides(state.board, action)
    line = "row" if DIRECTIONS[action] in ("right", "left") else "col"
    return [
        f"{line} {number}: {1 << tile} + {1 << tile}" for number, slide in enumerate(slides) for tile in slide.merged
    ]


def _advantage(
    game: Game[Any, Any, int], state: Any, action: int, points: dict[int, int], rng: np.random.Generator
) -> list[str]:
    """The first of these that holds: it pays most, it leaves most cells empty, the search of the solver prefers it."""
    if points[action] == max(points.values()) > 0:
        return [say(rng, MOST)]
    moves = Moves(game.level.rows, game.level.cols)
    empty = {legal: moves.after(state.board, legal).count(0) for legal in points}
    if empty[action] == max(empty.values()) > min(empty.values()):
        return [say(rng, EMPTIEST, empty=count(empty[action], "empty cell"))]
    values = {legal: game.value(state, legal) for legal in points}
    return [say(rng, AHEAD)] if values[action] == max(values.values()) else []
