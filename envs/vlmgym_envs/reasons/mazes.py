"""Why a step through a maze is right: the way from there to the goal, as far as the picture shows it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vlmgym_envs.games._directions import DIRECTIONS
from vlmgym_envs.reasons.wording import Cell, Templates, beside, count, refusal, say

if TYPE_CHECKING:
    from vlmgym_envs.games.maze import Maze, MazeState

PLACES: Templates = (
    "The player is at {player} and the goal at {goal}.",
    "I stand at {player}; the goal is at {goal}.",
    "From {player}, I have to reach the goal at {goal}.",
)
WAY: Templates = (
    "A free way leads {legs}, {moves} in all.",
    "I go {legs}: that takes {moves}.",
    "Through free cells I can walk {legs}. These are {moves}.",
)
SHORTEST: Templates = ("No shorter way is shown.", "It is a shortest way.")
DETOUR: Templates = ("It is a detour: {moves} would do.", "A shorter way would take {moves}.")
UNSEEN: Templates = (
    "The player is at {player}. No way to the goal is shown yet; {direction} of it, {cell} is free.",
    "I stand at {player} and see no way to the goal. The cell {cell}, {direction} of here, is free, so I look further.",
    "From {player}, I cannot see how to reach the goal. The cell {cell}, {direction} of it, can be entered.",
)


class Way(NamedTuple):
    """legs: direction and corner that it leads to. num_steps: in all. fewest: of the best way from where it begins."""

    legs: Sequence[tuple[str, Cell]]
    num_steps: int
    fewest: int


def reason(game: "Maze", state: "MazeState", action: int, rng: np.random.Generator) -> str:
    refused = refusal(game, state, action, rng)
    if refused is not None:
        return refused
    cols = game.level.cols
    player, way = divmod(state.player, cols), game.way_on(state, action)
    if way is None:
        return say(rng, UNSEEN, player=player, direction=DIRECTIONS[action], cell=beside(player, action))
    assert state.goal is not None
    legs = ", then ".join(f"{direction} to {corner}" for direction, corner in way.legs)
    told = [say(rng, PLACES, player=player, goal=divmod(state.goal, cols))]
    told.append(say(rng, WAY, legs=legs, moves=count(way.num_steps, "move")))
    is_shortest = way.num_steps == way.fewest
    told.append(say(rng, SHORTEST) if is_shortest else say(rng, DETOUR, moves=count(way.fewest, "move")))
    return " ".join(told)
