"""Decides which tiles of a match-3 board form runs, which swaps make one, how tiles fall, and how boards are dealt.

A board is bytes [rows * cols], 0 for an empty cell, tiles below 128. Read as one whole number, cell i is byte i, so
that one operation compares all cells at once. A set of cells is a number as well: bit 7 of byte i stands for cell i.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from vlmgym_envs.games._stream import draw_below

Pair = tuple[int, int]
Offset = tuple[int, int]
"""(rows down, columns to the right) from a cell."""

MAX_DEALS = 100_000
MAX_SHUFFLES = 100


class _Pattern(NamedTuple):
    """One way in which the swap of a cell with a neighbour makes a run.

    cells: the set of cells for which the pattern lies on the board. links: numbers of the links that must be equal.
    """

    cells: int
    links: tuple[int, ...]


class Settled(NamedTuple):
    """A board that has no run any more. num_rounds: how often runs were removed. stream: of new tiles, after it all."""

    board: bytes
    stream: int
    num_rounds: int
    num_removed: int


class Matching:
    """The runs of a board: `run_length` or more equal tiles side by side along a row or a column.

    Cells are flat indices, row * cols + col. New tiles are uniform on 1..num_kinds.
    """

    def __init__(self, rows: int, cols: int, run_length: int, num_kinds: int) -> None:
        self._rows = rows
        self._cols = cols
        self._run_length = run_length
        self._num_kinds = num_kinds
        self._all_cells = _cell_set(range(rows * cols))
        self._low_bits = self._all_cells - (self._all_cells >> 7)
        self._not_last_col = _cell_set(cell for cell in range(rows * cols) if (cell + 1) % cols)
        # A link (cell, gap) of a pattern: the tiles at i + cell and i + cell + gap, for each cell i at once.
        links: dict[Pair, int] = {}
        self._to_right = [self._pattern(offsets, links) for offsets in _run_offsets((0, 1), run_length)]
        self._down = [self._pattern(offsets, links) for offsets in _run_offsets((1, 0), run_length)]
        self._links = [(8 * cell, gap) for cell, gap in links]
        self._gaps = sorted({gap for _, gap in links} | {1, cols})

    def runs(self, board: bytes) -> int:
        """The set of all cells that are part of a run."""
        number = int.from_bytes(board, "little")
        filled = self._filled(number)
        found = 0
        for gap, places in ((1, filled & self._not_last_col), (self._cols, filled)):
            equal = starts = self._equal(number, gap) & places
            for place in range(1, self._run_length - 1):
                starts &= equal >> 8 * gap * place
            for place in range(self._run_length):
                found |= starts << 8 * gap * place
        return found

    def makes_run(self, board: bytes, first: int, second: int) -> bool:
        """Whether swapping two neighbours makes one of them part of a run."""
        return bool(self.runs(swapped(board, first, second)) & _cell_set((first, second)))

    def swaps(self, board: bytes) -> list[Pair]:
        """Every swap of two different neighbouring tiles that `makes_run`, in reading order."""
        to_right, down = self._swap_sets(board)
        pairs = [(cell, cell + 1) for cell in _cells(to_right)] + [(cell, cell + self._cols) for cell in _cells(down)]
        return sorted(pairs)

    def any_swap(self, board: bytes) -> bool:
        """Whether `swaps` finds one."""
        return any(self._swap_sets(board))

    def deal(self, rng: np.random.Generator) -> bytes:
        """Uniform over the full boards without a run and with one of `swaps`."""
        for _ in range(MAX_DEALS):
            board = rng.integers(1, self._num_kinds + 1, self._rows * self._cols, dtype=np.uint8).tobytes()
            if self._is_start(board):
                return board
        raise ValueError(
            f"each of {MAX_DEALS} deals of {self._num_kinds} kinds on {self._rows} x {self._cols} cells "
            f"has a run of {self._run_length} or no legal swap"
        )

    def reshuffled(self, board: bytes, stream: int) -> tuple[bytes, int]:
        """The same tiles, uniform over their orders without a run and with one of `swaps`; the stream after that.

        New tiles, as in `deal`, where MAX_SHUFFLES shuffles give none, as when no kind has enough tiles for a run.
        """
        number, stream = draw_below(stream, 2**64)
        rng = np.random.default_rng(number)
        tiles = np.frombuffer(board, dtype=np.uint8)
        for _ in range(MAX_SHUFFLES):
            shuffled = rng.permutation(tiles).tobytes()
            if self._is_start(shuffled):
                return shuffled, stream
        return self.deal(rng), stream

    def settle(self, board: bytes, stream: int, refill: bool) -> Settled:
        """Removes all runs at once and lets tiles fall, again and again while there are runs.

        refill: before each next look, new tiles from the stream fill the gaps in reading order; else these stay.
        """
        num_rounds = num_removed = 0
        while runs := self.runs(board):
            num_rounds += 1
            num_removed += runs.bit_count()
            board = self._fallen(board, runs)
            if refill:
                board, stream = self._refilled(board, stream)
        return Settled(board, stream, num_rounds, num_removed)

    def best_in_sight(self, board: bytes) -> dict[Pair, bytes]:
        """The swaps that remove most tiles, and what board each leaves, where new tiles are gaps that match nothing."""
        after = {pair: self.settle(swapped(board, *pair), 0, refill=False) for pair in self.swaps(board)}
        most = max((settled.num_removed for settled in after.values()), default=0)
        return {pair: settled.board for pair, settled in after.items() if settled.num_removed == most}

    def lines_through(self, board: bytes, cell: int) -> list[list[int]]:
        """The runs that a tile is part of, each from end to end: at most one along its row, one along its column."""
        row, col = divmod(cell, self._cols)
        along_row = range(row * self._cols, (row + 1) * self._cols)
        along_col = range(col, len(board), self._cols)
        lines = []
        for line, place in ((along_row, col), (along_col, row)):
            first = last = place
            while first > 0 and board[line[first - 1]] == board[cell]:
                first -= 1
            while last + 1 < len(line) and board[line[last + 1]] == board[cell]:
                last += 1
            if last - first + 1 >= self._run_length:
                lines.append(list(line[first : last + 1]))
        return lines

    def _is_start(self, board: bytes) -> bool:
        return not self.runs(board) and self.any_swap(board)

    def _fallen(self, board: bytes, removed: int) -> bytes:
        """The board without a set of cells, every tile as low in its column as it falls."""
        whole_bytes = (removed << 1) - (removed >> 7)
        left = (int.from_bytes(board, "little") & ~whole_bytes).to_bytes(len(board), "little")
        fallen = bytearray(left)
        for col in range(self._cols):
            fallen[col :: self._cols] = left[col :: self._cols].replace(b"\0", b"").rjust(self._rows, b"\0")
        return bytes(fallen)

    def _refilled(self, board: bytes, stream: int) -> tuple[bytes, int]:
        filled = bytearray(board)
        cell = board.find(0)
        while cell >= 0:
            kind, stream = draw_below(stream, self._num_kinds)
            filled[cell] = 1 + kind
            cell = board.find(0, cell + 1)
        return bytes(filled), stream

    def _filled(self, number: int) -> int:
        # Adding 127 carries a byte that is not zero into its bit 7, and never beyond.
        return (number + self._low_bits) & self._all_cells

    def _equal(self, number: int, gap: int) -> int:
        """The cells whose tile is that of the cell `gap` later; behind the last cell stand empty ones."""
        return (((number ^ (number >> 8 * gap)) + self._low_bits) & self._all_cells) ^ self._all_cells

    def _swap_sets(self, board: bytes) -> tuple[int, int]:
        """The cells whose swap with the right neighbour is one of `swaps`, and those with the neighbour below."""
        number = int.from_bytes(board, "little")
        filled = self._filled(number)
        equal = {gap: self._equal(number, gap) for gap in self._gaps}
        links = [equal[gap] >> shift if shift >= 0 else equal[gap] << -shift for shift, gap in self._links]
        found = []
        for gap, patterns in ((1, self._to_right), (self._cols, self._down)):
            swaps = 0
            for cells, numbers in patterns:
                for link in numbers:
                    cells &= links[link]
                swaps |= cells
            found.append(swaps & filled & filled >> 8 * gap & (equal[gap] ^ self._all_cells))
        return found[0], found[1]

    def _pattern(self, offsets: list[Offset], links: dict[Pair, int]) -> _Pattern:
        """The pattern of one of `_run_offsets`; adds to `links` what it is the first to use."""
        on_board = _cell_set(
            row * self._cols + col
            for row in range(self._rows)
            for col in range(self._cols)
            if all(0 <= row + down < self._rows and 0 <= col + right < self._cols for down, right in offsets)
        )
        equal_cells = sorted(down * self._cols + right for down, right in offsets[1:])
        pairs = [(cell, after - cell) for cell, after in pairwise(equal_cells)]
        return _Pattern(on_board, tuple(links.setdefault(pair, len(links)) for pair in pairs))


def swapped(board: bytes, first: int, second: int) -> bytes:
    """The board with the tiles of two cells exchanged."""
    after = bytearray(board)
    after[first], after[second] = board[second], board[first]
    return bytes(after)


def _run_offsets(neighbour: Offset, run_length: int) -> Iterator[list[Offset]]:
    """Every run that a swap of (0, 0) with `neighbour` may complete: where the tile arrives, whence, the other tiles.

    >>> next(_run_offsets((0, 1), 3))  # the tile from (0, 1) arrives at (0, 0), where two equal ones stand to the left
    [(0, 0), (0, 1), (0, -2), (0, -1)]
    """
    for target, source in (((0, 0), neighbour), (neighbour, (0, 0))):
        for down, right in ((0, 1), (1, 0)):
            for place in range(run_length - 1, -1, -1):
                steps = [step - place for step in range(run_length) if step != place]
                others = [(target[0] + step * down, target[1] + step * right) for step in steps]
                if source not in others:
                    yield [target, source, *others]


def _cell_set(cells: Iterable[int]) -> int:
    return sum(0x80 << 8 * cell for cell in cells)


def _cells(cell_set: int) -> list[int]:
    """The cells of a set, in order.

    >>> _cells(_cell_set([2, 7]))
    [2, 7]
    """
    cells = []
    while cell_set:
        lowest = cell_set & -cell_set
        cells.append(lowest.bit_length() // 8 - 1)
        cell_set ^= lowest
    return cells
