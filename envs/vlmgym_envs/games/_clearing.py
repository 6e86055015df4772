"""Decides in which order a Shisen-Sho board is best cleared, and deals boards that can be cleared.

Removing a tile never blocks a path. So where all tiles of a kind can be removed at once, doing that first costs
nothing: any order without these moves still works. The search only branches where no kind is free in this sense.
"""

from dataclasses import dataclass, field

import numpy as np

from vlmgym_envs.games._paths import MAX_TURNS, Paths

Pair = tuple[int, int]

MAX_TRIES = 10
MAX_BOARDS_PER_TRY = 150
"""Bounds of the search. One order looks at about 10 boards on 6 x 6 cells, 40 on 12 x 12, 80 on 16 x 16."""


def clearing_order(board: bytes, rows: int, cols: int, turns: int = MAX_TURNS) -> tuple[Pair, ...]:
    """The longest order of moves found: pairs of flat cell indices, first to last.

    board: bytes [rows * cols], 0 for an empty cell. turns: as in `Paths`. Depth first, innermost pairs first; where
    that looks at MAX_BOARDS_PER_TRY boards, again with the branches in random order, MAX_TRIES times in all. The result
    is exact where a try clears the board or runs out of branches, and depends on the board and `turns` alone.
    """
    num_pairs = (len(board) - board.count(0)) // 2
    rng = np.random.default_rng(0)
    longest: tuple[Pair, ...] = ()
    for number in range(MAX_TRIES):
        search = _Search(rows, cols, turns, rng if number else None)
        stopped = search.visit(board, ())
        longest = max(longest, search.longest, key=len)
        if not stopped or len(longest) == num_pairs:
            break
    return longest


def clearable_deal(tiles: np.ndarray, rows: int, cols: int, rng: np.random.Generator, turns: int = MAX_TURNS) -> bytes:
    """Shuffles `tiles` [rows * cols] over the board, with an even number of each kind, such that it can be cleared.

    Plays the shuffled board; where the play is stuck, shuffles what is left over the cells that are left. The moves
    before that stay legal, since paths do not see which tile blocks them. A board that is never stuck on the way is a
    uniform shuffle: almost all boards of 6 x 6 cells, few of 12 x 12. Without turns play is stuck all the time, so
    tiles are dealt pair by pair instead, along an order that clears the cells.
    """
    if turns == 0:
        return _dealt_along_lines(tiles, rows, cols, rng)
    left = rng.permutation(tiles).astype(np.uint8).tobytes()
    deal = bytearray(left)
    while any(left):
        pairs = Paths(left, rows, cols, turns).pairs()
        if pairs:
            left = without(left, _free_pairs(left, pairs) or [pairs[int(rng.integers(len(pairs)))]])
        else:
            cells = [cell for cell, tile in enumerate(left) if tile]
            for cell, tile in zip(cells, rng.permutation([left[cell] for cell in cells]).tolist(), strict=True):
                deal[cell] = tile
            left = bytes(tile and deal[cell] for cell, tile in enumerate(left))
    return bytes(deal)


def without(board: bytes, pairs: list[Pair]) -> bytes:
    """The board with the tiles of some pairs removed."""
    left = bytearray(board)
    for first, second in pairs:
        left[first] = left[second] = 0
    return bytes(left)


@dataclass(slots=True)
class _Search:
    """One depth-first try; rng: branches in random order, innermost pairs first without one."""

    rows: int
    cols: int
    turns: int
    rng: np.random.Generator | None
    visited: set[bytes] = field(default_factory=set)
    longest: tuple[Pair, ...] = ()

    def visit(self, board: bytes, moves: tuple[Pair, ...]) -> bool:
        """Extends `moves`, which led to `board`. True stops the try: the board is cleared or the bound is reached."""
        while True:
            if board in self.visited:
                return False
            if len(self.visited) == MAX_BOARDS_PER_TRY:
                return True
            self.visited.add(board)
            pairs = Paths(board, self.rows, self.cols, self.turns).pairs()
            free = _free_pairs(board, pairs)
            if not free:
                break
            board = without(board, free)
            moves = (*moves, *free)
        if len(moves) > len(self.longest):
            self.longest = moves
        return not any(board) or any(self.visit(without(board, [pair]), (*moves, pair)) for pair in self._sorted(pairs))

    def _sorted(self, pairs: list[Pair]) -> list[Pair]:
        if self.rng is None:
            return sorted(pairs, key=lambda pair: -self._depth(pair[0]) - self._depth(pair[1]))
        return [pairs[index] for index in self.rng.permutation(len(pairs)).tolist()]

    def _depth(self, cell: int) -> int:
        """How many cells lie between a cell and the nearest edge."""
        row, col = divmod(cell, self.cols)
        return min(row, self.rows - 1 - row, col, self.cols - 1 - col)


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
    for pair in pairs:
        if pair[0] != pairs[0][0]:
            break
        rest = [other for other in pairs if not set(other) & set(pair)]
        found = _matching(rest, num_tiles - 2)
        if 2 * len(found) == num_tiles - 2:
            return [pair, *found]
    return []


def _dealt_along_lines(tiles: np.ndarray, rows: int, cols: int, rng: np.random.Generator) -> bytes:
    """A deal that can be cleared without turns: empties a full board by random moves, then gives each move a kind."""
    deal = bytearray(rows * cols)
    kinds = rng.permutation(np.sort(tiles)[::2]).tolist()
    for (first, second), kind in zip(_order_along_lines(rows, cols, rng), kinds, strict=True):
        deal[first] = deal[second] = kind
    return bytes(deal)


def _order_along_lines(rows: int, cols: int, rng: np.random.Generator) -> list[Pair]:
    """All cells in pairs, each with nothing between it in its row or column once the pairs before it are gone.

    Uniformly random pairs among those; again from the full board where no two of the cells left are in one line. That
    happens about 3 times for 6 x 6 cells, 50 times for 12 x 12.
    """
    while True:
        left, order = set(range(rows * cols)), []
        while pairs := _neighbors(left, cols):
            pair = pairs[int(rng.integers(len(pairs)))]
            order.append(pair)
            left.difference_update(pair)
        if not left:
            return order


def _neighbors(cells: set[int], cols: int) -> list[Pair]:
    """The pairs of cells with none of `cells` between them in their row or column."""
    pairs: list[Pair] = []
    last: dict[tuple[str, int], int] = {}
    for cell in sorted(cells):
        for line in (("row", cell // cols), ("col", cell % cols)):
            if line in last:
                pairs.append((last[line], cell))
            last[line] = cell
    return pairs
