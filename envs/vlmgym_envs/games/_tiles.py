"""Decides how a board of tiles is numbered, named and written as text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlmgym_envs.shapes import COLORS, SHAPES

EMPTY = "-"


class NamedTiles(ABC):
    """The kinds of tiles of one level. Tile 0 is the empty cell, tiles 1..num_kinds are the kinds."""

    __slots__ = ()

    @property
    @abstractmethod
    def num_kinds(self) -> int: ...

    @abstractmethod
    def name(self, tile: int) -> str:
        """What the board text calls a tile; "-" for the empty cell."""

    def names(self) -> list[str]:
        """The name of every tile, indexed by tile."""
        return [self.name(tile) for tile in range(self.num_kinds + 1)]

    def parts(self, name: str) -> tuple[str, ...] | None:
        """What a name says, part by part; () for the empty cell, None for what no tile of this level is called."""
        return _parts(self, name)

    def _split(self, name: str) -> tuple[str, ...]:
        """The parts of a tile's name."""
        return (name,)

    def write(self, board: bytes, cols: int) -> str:
        """Rows as lines, cells as " Red circle " joined by "|", no newline at the end."""
        return _written(self, board, cols)

    def read(self, cells: Sequence[Sequence[str]], rows: int, cols: int) -> bytes:
        """The inverse of `write`, from stripped cells. Errors: ValueError naming the row, the column and the cell."""
        if len(cells) != rows:
            raise ValueError(f"board must have {rows} rows, got {len(cells)}")
        tiles = _numbers(self)
        board = bytearray()
        for row, line in enumerate(cells):
            if len(line) != cols:
                raise ValueError(f"row {row} must have {cols} cells, got {len(line)}")
            for col, cell in enumerate(line):
                if cell not in tiles:
                    raise ValueError(f"row {row}, col {col}: {cell!r} is no tile of this level")
                board.append(tiles[cell])
        return bytes(board)


@lru_cache(maxsize=1024)
def _written(tiles: NamedTiles, board: bytes, cols: int) -> str:
    """Cached, as all answers to a state are held against one text."""
    names = tiles.names()
    cells = [f" {names[tile]} " for tile in board]
    return "\n".join("|".join(cells[start : start + cols]) for start in range(0, len(cells), cols))


@lru_cache(maxsize=64)
def _numbers(tiles: NamedTiles) -> Mapping[str, int]:
    """The tile of every name. Cached, as it is the same for all boards of a level."""
    return {name: tile for tile, name in enumerate(tiles.names())}


@lru_cache(maxsize=4096)
def _parts(tiles: NamedTiles, name: str) -> tuple[str, ...] | None:
    """Cached, as a board has hundreds of cells of few kinds."""
    if name == EMPTY:
        return ()
    return tiles._split(name) if name in _numbers(tiles) else None


@dataclass(frozen=True, slots=True)
class TileSet(NamedTiles):
    """Colored shapes: tile 1 + color * num_shapes + shape is "Red circle" for the first color and the first shape."""

    num_colors: int
    num_shapes: int

    @property
    def num_kinds(self) -> int:
        return self.num_colors * self.num_shapes

    def name(self, tile: int) -> str:
        if tile == 0:
            return EMPTY
        color, shape = divmod(tile - 1, self.num_shapes)
        return f"{list(COLORS)[color]} {SHAPES[shape]}"

    def _split(self, name: str) -> tuple[str, ...]:
        """Color and shape."""
        return tuple(name.split())


@dataclass(frozen=True, slots=True)
class PictureTiles(NamedTiles):
    """Pictures: tile 1 + number is called like the class of that number."""

    class_names: tuple[str, ...]

    @property
    def num_kinds(self) -> int:
        return len(self.class_names)

    def name(self, tile: int) -> str:
        return EMPTY if tile == 0 else self.class_names[tile - 1]
