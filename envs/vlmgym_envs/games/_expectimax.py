"""Decides which move of a merging game promises most: a search over this move, the tile that comes, and the next move.

The promise of a board is judged line by line, over rows and columns: empty cells and equal neighbours are good, and so
are tiles that rise or fall along the whole line, because they can merge one after the other.
"""

from itertools import pairwise

from vlmgym_envs.games._directions import DIRECTIONS
from vlmgym_envs.games._merging import MAX_EXPONENT, MAX_LINES_KEPT, Moves

EMPTY_WEIGHT = 100.0
PAIR_WEIGHT = 30.0
HEIGHTS = [float(exponent**4) for exponent in range(MAX_EXPONENT + 1)]
"""How high a tile stands in a line that should rise or fall, by exponent."""
LOST = -200_000.0
"""What a board without a move is worth. No board counts as less."""

MAX_CELLS = 12
"""How many of the empty cells a new tile is tried on, spread evenly over them where there are more."""


class LineValues(dict[bytes, float]):
    """`line_value` of every line that was asked for."""

    def __missing__(self, line: bytes) -> float:
        if len(self) >= MAX_LINES_KEPT:
            self.clear()
        self[line] = value = line_value(line)
        return value


def line_value(line: bytes) -> float:
    """EMPTY_WEIGHT per empty cell, plus PAIR_WEIGHT per pair of equal neighbours, minus the disorder.

    The disorder is what the line rises or what it falls in all, whichever is less: 0 for a line that only rises or only
    falls. It is measured in HEIGHTS, so that a great tile between smaller ones costs most.

    >>> line_value(bytes([3, 2, 2, 0])), line_value(bytes([1, 2, 1, 2]))
    (130.0, -15.0)
    """
    tiles = line.replace(b"\0", b"")
    num_pairs = sum(first == second for first, second in pairwise(tiles))
    changes = [HEIGHTS[second] - HEIGHTS[first] for first, second in pairwise(line)]
    rises, falls = (sum(max(0, sign * change) for change in changes) for sign in (1, -1))
    return EMPTY_WEIGHT * line.count(0) + PAIR_WEIGHT * num_pairs - min(rises, falls)


_LINE_VALUES = LineValues()


class Expectimax:
    """Two moves deep, with every tile that may come in between; what comes after the second move is not tried.

    four_percent: how often the tile that comes is a 4, else a 2.
    """

    def __init__(self, moves: Moves, four_percent: int) -> None:
        self._moves = moves
        self._lines = [*moves.rows, *moves.cols]
        self._chances = [(b"\1", 1 - four_percent / 100), (b"\2", four_percent / 100)]

    def best(self, board: bytes) -> int | None:
        """The direction with the greatest expected value, the first of equal ones; None where no tile can move."""
        afters = {direction: self._moves.after(board, direction) for direction in self._moves.legal(board)}
        return max(afters, key=lambda direction: self._before_tile(afters[direction]), default=None)

    def value(self, board: bytes) -> float:
        """What a board on which a new tile is to appear is worth, in empty cells; at least minus its number of cells.

        So a lost game costs as much as a full board of empty cells, and no more.
        """
        return max(self._before_tile(board) / EMPTY_WEIGHT, -float(len(board)))

    def _before_tile(self, board: bytes) -> float:
        """The expected value of a board on which a new tile is to appear."""
        cells = _spread([cell for cell, tile in enumerate(board) if not tile])
        total = 0.0
        for tile, chance in self._chances:
            if chance:
                values = [self._before_move(board[:cell] + tile + board[cell + 1 :]) for cell in cells]
                total += chance * sum(values) / len(cells)
        return total

    def _before_move(self, board: bytes) -> float:
        """The value of the best move on a board."""
        moves, best = self._moves, LOST
        for direction in range(len(DIRECTIONS)):
            after = moves.after(board, direction)
            if after != board:
                best = max(best, sum([_LINE_VALUES[after[line]] for line in self._lines]))
        return best


def _spread(cells: list[int]) -> list[int]:
    """At most MAX_CELLS of the cells, evenly spread."""
    count = min(len(cells), MAX_CELLS)
    return [cells[place * len(cells) // count] for place in range(count)]
