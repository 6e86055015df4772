"""Decides what a move does to a board of numbers: lines slide, equal neighbours merge, then a new tile appears.

A board is bytes [rows * cols], row by row: 0 for an empty cell, else the exponent of the tile, 1 for 2 up to 17 for
131072. A line is a row or a column, read from the edge that the tiles move to.
"""

from typing import NamedTuple

from vlmgym_envs.games._directions import DIRECTIONS
from vlmgym_envs.games._stream import draw_below

UP, LEFT = DIRECTIONS.index("up"), DIRECTIONS.index("left")

MAX_EXPONENT = 17
"""Tiles of 2**17 do not merge. 4 x 4 cells never come to hold two of them; on larger boards this bounds the tiles."""

MAX_LINES_KEPT = 50_000
"""About 12 MB. Games on 4 x 4 cells meet some thousands of lines."""


class Slide(NamedTuple):
    """What a move makes of a line. merged: the exponent of each pair that merged, nearest to the edge first."""

    line: bytes
    points: int
    merged: tuple[int, ...]


def slide(line: bytes) -> Slide:
    """Moves the tiles to the start of the line; equal neighbours merge, each tile once, nearest to the start first.

    The points are the sum of the tiles that merging made.

    >>> slide(bytes([1, 1, 1, 1, 0, 2]))
    Slide(line=b'\\x02\\x02\\x02\\x00\\x00\\x00', points=8, merged=(1, 1))
    """
    tiles = line.replace(b"\0", b"")
    after, merged, place = bytearray(), [], 0
    while place < len(tiles):
        tile = tiles[place]
        merges = tile < MAX_EXPONENT and tiles[place + 1 : place + 2] == bytes([tile])
        if merges:
            merged.append(tile)
        after.append(tile + merges)
        place += 1 + merges
    return Slide(bytes(after).ljust(len(line), b"\0"), sum(2 << tile for tile in merged), tuple(merged))


class Slides(dict[bytes, Slide]):
    """`slide` of every line that was asked for, kept because a board of four lines meets the same ones all the time."""

    def __missing__(self, line: bytes) -> Slide:
        if len(self) >= MAX_LINES_KEPT:
            self.clear()
        self[line] = found = slide(line)
        return found


_SLIDES = Slides()


class Moves:
    """The moves on boards of one size, before a new tile appears.

    rows, cols: slices of a board, one per row and column.
    """

    def __init__(self, num_rows: int, num_cols: int) -> None:
        self.rows = [slice(row * num_cols, (row + 1) * num_cols) for row in range(num_rows)]
        self.cols = [slice(col, None, num_cols) for col in range(num_cols)]
        rows_of_cols = [slice(row, None, num_rows) for row in range(num_rows)]
        # Read backwards, a board moves up instead of down and left instead of right. By direction: whether it is read
        # so, the lines that slide, and what puts columns back into rows.
        up, left = (self.cols, rows_of_cols), (self.rows, None)
        self._ways = ((False, *up), (True, *left), (True, *up), (False, *left))

    def after(self, board: bytes, direction: int) -> bytes:
        """The board after the tiles moved; an equal board where none can."""
        backwards, lines, rows = self._ways[direction]
        if backwards:
            board = board[::-1]
        moved = b"".join([_SLIDES[board[line]].line for line in lines])
        if rows is not None:
            moved = b"".join([moved[row] for row in rows])
        return moved[::-1] if backwards else moved

    def points(self, board: bytes, direction: int) -> int:
        """What moving the tiles pays."""
        return sum([slide.points for slide in self.slides(board, direction)])

    def slides(self, board: bytes, direction: int) -> list[Slide]:
        """What happens to each line: rows from top to bottom, or columns from left to right."""
        backwards, lines, _ = self._ways[direction]
        if backwards:
            return [_SLIDES[board[line][::-1]] for line in lines]
        return [_SLIDES[board[line]] for line in lines]

    def legal(self, board: bytes) -> list[int]:
        """The directions in which at least one tile moves, ascending."""
        return [direction for direction in range(len(DIRECTIONS)) if self.after(board, direction) != board]

    def any_legal(self, board: bytes) -> bool:
        # Where there are tiles and an empty cell, some tile is next to an empty cell.
        if 0 in board:
            return any(board)
        return self.after(board, UP) != board or self.after(board, LEFT) != board


def with_new_tile(board: bytes, stream: int, four_percent: int) -> tuple[bytes, int]:
    """The board with a 4, in `four_percent` of the cases, or a 2 on a uniformly drawn empty cell, and the stream."""
    number, stream = draw_below(stream, 100 * board.count(0))
    which, percent = divmod(number, 100)
    cell = board.find(0)
    for _ in range(which):
        cell = board.find(0, cell + 1)
    tile = b"\2" if percent < four_percent else b"\1"
    return board[:cell] + tile + board[cell + 1 :], stream


def points_so_far(board: bytes, num_tiles: int) -> int:
    """What the moves of a game paid that led from an empty board to this one while `num_tiles` tiles appeared.

    Made from 2s alone, a tile 2**e has paid (e - 1) * 2**e. A 4 that appeared need not be made, which would pay 4; and
    since num_tiles 2s would sum up to 2 * num_tiles, the rest of the sum tells how many 4s there were.

    >>> points_so_far(bytes([3, 1, 0, 0]), num_tiles=4)  # 2 + 2 and 4 + 4 paid 4 and 8: tiles 2, 2, 4 and the last 2
    12
    """
    num_fours = sum(1 << tile for tile in board if tile) // 2 - num_tiles
    return sum((tile - 1) << tile for tile in board if tile) - 4 * num_fours
