"""Why a step of Sokoban is right: which box the plan pushes next, and what this step does for it."""

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from vlmgym_envs.games._directions import DIRECTIONS
from vlmgym_envs.reasons.wording import Cell, Templates, beside, count, refusal, say

if TYPE_CHECKING:
    from vlmgym_envs.games.sokoban import Sokoban, SokobanState

BLOCKS = ("wall", "box", "box on goal")
PLAN: Templates = (
    "The next push is the box at {box}, {direction} to {target}{onto}.",
    "I want to push the box at {box} {direction} to {target}{onto}.",
    "The box at {box} has to go {direction}, to {target}{onto}.",
)
PUSH: Templates = (
    "The player is at {player}, right behind it, so I push now.",
    "I stand at {player}, on the side to push from.",
    "From {player}, one step {direction} pushes it.",
)
WALK: Templates = (
    "For that the player must stand at {behind}. From {player} this takes {steps}, the first one {step} to {cell}.",
    "The place to push from is {behind}. The player, at {player}, reaches it in {steps}, beginning {step} to {cell}.",
    "I am at {player} and go to {behind} first: {steps}, and the next one is {step} to {cell}.",
)
BARE: Templates = (
    "The player is at {player}. The cell {step} of it is {cell}: {thing}.",
    "I stand at {player}; {step} of me, at {cell}, is {thing}.",
)


def reason(game: "Sokoban", state: "SokobanState", action: int, rng: np.random.Generator) -> str:
    refused = refusal(game, state, action, rng)
    if refused is not None:
        return refused
    cells = game.cells(game.describe(state))
    places = {(row, col): thing for row, line in enumerate(cells) for col, thing in enumerate(line)}
    player = next(cell for cell, thing in places.items() if thing.startswith("player"))
    push = game.next_push(state.board)
    cell = beside(player, action)
    if push is None or game.solve(state) != action:
        thing = "an empty cell" if places[cell] == "-" else f"a {places[cell]}"
        return say(rng, BARE, player=player, step=DIRECTIONS[action], cell=cell, thing=thing)
    box, direction = divmod(push[1].bit_length() - 1, game.level.cols + 1), push[0]
    target, behind = beside(box, direction), beside(box, (direction + 2) % 4)
    onto = ", which is a goal" if places[target] in ("goal", "player on goal") else ""
    told = say(rng, PLAN, box=box, direction=DIRECTIONS[direction], target=target, onto=onto)
    if player == behind:
        return f"{told} {say(rng, PUSH, player=player, direction=DIRECTIONS[direction])}"
    steps = count(_num_steps(places, player, behind), "step")
    return f"{told} {say(rng, WALK, behind=behind, player=player, steps=steps, step=DIRECTIONS[action], cell=cell)}"


def _num_steps(places: dict[Cell, str], start: Cell, end: Cell) -> int:
    """Of a shortest walk between two cells without pushing; there is one."""
    num_steps, reached = {start: 0}, deque([start])
    while end not in num_steps:
        here = reached.popleft()
        for direction in range(len(DIRECTIONS)):
            cell = beside(here, direction)
            if cell not in num_steps and places.get(cell, "wall") not in BLOCKS:
                num_steps[cell] = num_steps[here] + 1
                reached.append(cell)
    return num_steps[end]
