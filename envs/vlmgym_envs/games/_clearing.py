"""Decides in which order a Shisen-Sho board is best cleared, by an exact search with a bound.

Removing a tile never blocks a path. So where all tiles of a kind can be removed at once, doing that first costs
nothing: any order without these moves still works. The search only branches where no kind is free in this sense.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from vlmgym_envs.games._paths import Paths

Pair = tuple[int, int]


class Order(NamedTuple):
    """The longest order of moves that the search met.

    moves: pairs of flat cell indices. clears: whether they empty the board. exact: whether no longer order exists.
    """

    moves: tuple[Pair, ...]
    clears: bool
    exact: bool


def clearing_order(board: bytes, rows: int, cols: int, max_boards: int) -> Order:
    """Searches depth first over at most `max_boards` different boards; branches in reading order.

    board: bytes [rows * cols], 0 for an empty cell.
    """
    search = _Search(rows, cols, max_boards)
    search.visit(board, ())
    clears = 2 * len(search.longest) == len(board) - board.count(0)
    return Order(search.longest, clears, clears or len(search.visited) < max_boards)


@dataclass(slots=True)
class _Search:
    rows: int
    cols: int
    max_boards: int
    visited: set[bytes] = field(default_factory=set)
    longest: tuple[Pair, ...] = ()

    def visit(self, board: bytes, moves: tuple[Pair, ...]) -> bool:
        """Extends `moves`, which led to `board`. True ends the search: the board is cleared or the bound is hit."""
        while True:
            if board in self.visited:
                return False
            if len(self.visited) == self.max_boards:
                return True
            self.visited.add(board)
            pairs = Paths(board, self.rows, self.cols).pairs()
            free = _free_pairs(board, pairs)
            if not free:
                break
            board = _without(board, free)
            moves = (*moves, *free)
        if len(moves) > len(self.longest):
            self.longest = moves
        return not any(board) or any(self.visit(_without(board, [pair]), (*moves, pair)) for pair in pairs)


def _free_pairs(board: bytes, pairs: list[Pair]) -> list[Pair]:
    """The pairs, taken from the connected `pairs`, that remove every kind which can be removed as a whole right now."""
    by_kind: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_kind.setdefault(board[pair[0]], []).append(pair)
    free: list[Pair] = []
    for kind, candidates in by_kind.items():
        free += _matching(candidates, board.count(kind))
    return free


def _matching(pairs: list[Pair], num_tiles: int) -> list[Pair]:
    """Disjoint pairs that cover `num_tiles` tiles, [] where none do. `pairs` is in reading order."""
    if not num_tiles:
        return []
    if not pairs:
        return []
    first = pairs[0][0]
    for pair in pairs:
        if pair[0] != first:
            break
        rest = [other for other in pairs if not set(other) & set(pair)]
        found = _matching(rest, num_tiles - 2)
        if 2 * len(found) == num_tiles - 2:
            return [pair, *found]
    return []


def _without(board: bytes, pairs: list[Pair]) -> bytes:
    left = bytearray(board)
    for first, second in pairs:
        left[first] = left[second] = 0
    return bytes(left)
