"""Why a swap of a match-3 board is right: what it lines up, and how many tiles vanish."""

from itertools import groupby
from typing import Any

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_envs.games._cells import CellPair
from vlmgym_envs.reasons.wording import Cell, Templates, count, join, refusal, say

SWAPS: Templates = (
    "I swap {tile_1} at {first} with {tile_2} at {second}.",
    "The neighbours {tile_1} at {first} and {tile_2} at {second} change places.",
    "Exchanging {tile_1} at {first} and {tile_2} at {second} helps.",
)
LINES: Templates = ("This lines up {lines}.", "Then there is a line: {lines}.", "The swap makes a line of {lines}.")
VANISH: Templates = (
    "In sight, {removed} vanish.",
    "So {removed} are removed, not counting new ones.",
    "Of what is on the board, {removed} vanish.",
)
MOST: Templates = ("No other swap removes more in sight.", "That is the most that a swap removes in sight.")


def reason(game: Game[Any, Any, CellPair], state: Any, action: CellPair, rng: np.random.Generator) -> str:
    refused = refusal(game, state, action, rng)
    if refused is not None:
        return refused
    cells = game.cells(game.describe(state))
    first, second = action
    names = {"tile_1": cells[first[0]][first[1]], "tile_2": cells[second[0]][second[1]]}
    told = [say(rng, SWAPS, first=first, second=second, **names)]
    cells[first[0]][first[1]], cells[second[0]][second[1]] = names["tile_2"], names["tile_1"]
    lines = [
        f"{cells[line[0][0]][line[0][1]]} at {join(line)}"
        for cell in action
        for line in _lines_through(cells, cell, game.level.run_length)
    ]
    told.append(say(rng, LINES, lines=", and ".join(lines)))
    removed = game.value(state, action)
    told.append(say(rng, VANISH, removed=count(int(removed), "tile")))
    if removed >= max(game.value(state, other) for other in game.legal_actions(state)):
        told.append(say(rng, MOST))
    return " ".join(told)


def _lines_through(cells: list[list[str]], cell: Cell, run_length: int) -> list[list[Cell]]:
    """The runs of equal tiles in the row and in the column of a cell that hold it."""
    row, col = cell
    across = [(row, other) for other in range(len(cells[0]))]
    down = [(other, col) for other in range(len(cells))]
    runs = [
        list(run) for line in (across, down) for _, run in groupby(line, key=lambda place: cells[place[0]][place[1]])
    ]
    return [run for run in runs if cell in run and len(run) >= run_length]
