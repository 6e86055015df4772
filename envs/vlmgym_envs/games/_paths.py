"""Decides which tiles a path of at most two turns connects.

A path runs through empty cells along rows and columns and may leave the board by one cell. One with at most two turns
has the shape row-column-row or column-row-column, where each part may be empty. So tiles a and b are connected by the
first shape exactly if some column is seen from a along its row, and from b along its row, and holds no tile strictly
between the two rows. Rows and columns are bit masks, so one `&` tests every column at once. With at most one turn, that
column is the one of a or of b; without a turn, a and b are in it.
"""

from collections.abc import Iterator

MAX_TURNS = 2


class Paths:
    """The paths of one board. Cells are flat indices, row * cols + col.

    board: bytes [rows * cols], 0 for an empty cell. turns: the largest number of turns of a path, 0..2.
    """

    __slots__ = ("_board", "_col_spans", "_col_tiles", "_cols", "_row_spans", "_row_tiles", "_sights", "_turns")

    def __init__(self, board: bytes, rows: int, cols: int, turns: int = MAX_TURNS) -> None:
        self._board = board
        self._cols = cols
        self._turns = turns
        # Bit c + 1 of row r + 1 is set for a tile at (r, c): the ring around the board is free.
        self._row_tiles = [0] * (rows + 2)
        self._col_tiles = [0] * (cols + 2)
        for index, tile in enumerate(board):
            if tile:
                row, col = divmod(index, cols)
                self._row_tiles[row + 1] |= 2 << col
                self._col_tiles[col + 1] |= 2 << row
        self._row_spans: dict[int, list[int]] = {}
        self._col_spans: dict[int, list[int]] = {}
        self._sights: dict[int, tuple[int, int]] = {}

    def connects(self, first: int, second: int) -> bool:
        """Whether a path of at most `turns` turns runs between two different cells."""
        row_1, col_1 = divmod(first, self._cols)
        row_2, col_2 = divmod(second, self._cols)
        cols_1, rows_1 = self._sight(first)
        cols_2, rows_2 = self._sight(second)
        if self._turns < MAX_TURNS:
            cols_1 &= self._allowed(2 << col_1, 2 << col_2)
            rows_1 &= self._allowed(2 << row_1, 2 << row_2)
        cols = cols_1 & cols_2
        if cols and cols & ~_between(self._row_spans, self._row_tiles, row_1 + 1, row_2 + 1):
            return True
        rows = rows_1 & rows_2
        return bool(rows and rows & ~_between(self._col_spans, self._col_tiles, col_1 + 1, col_2 + 1))

    def pairs(self) -> list[tuple[int, int]]:
        """Every connected pair of equal tiles, in reading order."""
        return list(self._connected_pairs())

    def any_pair(self) -> bool:
        """Whether a connected pair of equal tiles exists."""
        return any(True for _ in self._connected_pairs())

    def _connected_pairs(self) -> Iterator[tuple[int, int]]:
        sights = self._sights
        for first, others in _equal_to_each(self._board):
            cols_1, rows_1 = self._sight(first)
            for second in others:
                cols_2, rows_2 = sights.get(second) or self._sight(second)
                # Two that see no line in common are most pairs of a full board, and quickly told.
                if (cols_1 & cols_2 or rows_1 & rows_2) and self.connects(first, second):
                    yield first, second

    def _allowed(self, own_1: int, own_2: int) -> int:
        """Where the middle part of a path may run to leave it one turn or none, given the lines of its two ends."""
        return own_1 | own_2 if self._turns else own_1 & own_2

    def _sight(self, index: int) -> tuple[int, int]:
        """Masks of the columns seen from a cell along its row, and of the rows along its column; its own included."""
        found = self._sights.get(index)
        if found is None:
            row, col = divmod(index, self._cols)
            found = self._sights[index] = (
                _seen(self._row_tiles[row + 1], col + 1, len(self._col_tiles)),
                _seen(self._col_tiles[col + 1], row + 1, len(self._row_tiles)),
            )
        return found


def equal_pairs(board: bytes) -> list[tuple[int, int]]:
    """Every pair of equal tiles, connected or not, in reading order."""
    return [(first, second) for first, others in _equal_to_each(board) for second in others]


def _equal_to_each(board: bytes) -> Iterator[tuple[int, list[int]]]:
    """Each tile in reading order, with the equal ones after it. The list holds until the next step."""
    places: dict[int, list[int]] = {}
    for index, tile in enumerate(board):
        places.setdefault(tile, []).append(index)
    for index, tile in enumerate(board):
        if tile:
            del places[tile][0]
            yield index, places[tile]


def _seen(tiles: int, place: int, length: int) -> int:
    """Mask of the places in a line reached from `place` without crossing a tile.

    >>> bin(_seen(0b1000100001, 5, 12))
    '0b111111110'
    """
    nearest_below = (tiles & ((1 << place) - 1)).bit_length() - 1
    above = tiles >> (place + 1)
    nearest_above = place + (above & -above).bit_length() if above else length
    return (1 << nearest_above) - (1 << (nearest_below + 1))


def _between(spans: dict[int, list[int]], lines: list[int], line_1: int, line_2: int) -> int:
    """The union of the lines strictly between two lines; spans[low][n] is kept for the n lines after `low`."""
    low, high = (line_1, line_2) if line_1 <= line_2 else (line_2, line_1)
    unions = spans.get(low)
    if unions is None:
        unions = spans[low] = [0]
        for line in lines[low + 1 :]:
            unions.append(unions[-1] | line)
    return unions[max(high - low - 1, 0)]
