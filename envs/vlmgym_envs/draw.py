"""Decides how a picture of a board is put together from ready sprites, and what makes it hard to read."""

from functools import cache, cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlmgym_envs.level import BoardLevel

WHITE = 255
GRID = 210

_NUM_SHIFTS = 8
_NUM_MARKS = 64
_NOISE_MARGIN_PX = 64


class BoardPainter:
    """Pictures of the boards of one level, rows x cols cells.

    atlas: uint8 [K, tile_px, tile_px, 3], the sprite of every kind of tile; index 0 is the empty cell.
    level: jitter, noise and distractors, as in `BoardLevel`.
    """

    def __init__(self, rows: int, cols: int, atlas: NDArray[np.uint8], level: BoardLevel) -> None:
        self._rows = rows
        self._cols = cols
        self._atlas = atlas
        self._level = level

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of every picture."""
        level = self._level
        return self._rows * level.tile_px + 2 * level.border_px, self._cols * level.tile_px + 2 * level.border_px, 3

    def paint(self, tiles: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The picture, uint8 [H, W, 3], a new array. tiles: [rows, cols], indices into the atlas.

        Jitter, noise and distractors follow from the tiles alone: one board, one picture.
        """
        level = self._level
        if not (level.jitter or level.noise or level.distractors):
            return board_image(tiles, self._atlas, level.border_px)
        rng = np.random.default_rng(list(blake2b(tiles.astype(np.uint16).tobytes(), digest_size=8).digest()))
        if level.jitter:
            tiles = tiles + len(self._atlas) * rng.integers(_NUM_SHIFTS, size=tiles.shape)
        image = board_image(tiles, self._shifted_atlas if level.jitter else self._atlas, level.border_px)
        if level.distractors:
            _add_distractors(image, level.distractors, level.tile_px, rng)
        return self._with_noise(image, rng) if level.noise else image

    @cached_property
    def _shifted_atlas(self) -> NDArray[np.uint8]:
        """The atlas once for every shift: sprite s under shift n is number n * K + s."""
        rng = np.random.default_rng(0)
        reach = self._level.tile_px * self._level.jitter // 100
        shifts = rng.integers(-reach, reach + 1, size=(_NUM_SHIFTS, 2))
        return np.concatenate([[_shifted(sprite, *shift) for sprite in self._atlas] for shift in shifts.tolist()])

    @cached_property
    def _noise(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One field of noise, larger than the picture, as what it adds and what it takes away."""
        height, width, _ = self.image_shape
        size = (height + _NOISE_MARGIN_PX, width + _NOISE_MARGIN_PX, 3)
        noise = np.rint(np.random.default_rng(0).normal(0.0, self._level.noise, size))
        return noise.clip(0, 255).astype(np.uint8), (-noise).clip(0, 255).astype(np.uint8)

    def _with_noise(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Adds a window of the field, within 0..255; in bytes, which is several times as fast as in wider numbers."""
        top, left = rng.integers(_NOISE_MARGIN_PX, size=2).tolist()
        place = slice(top, top + image.shape[0]), slice(left, left + image.shape[1])
        more, less = (field[place] for field in self._noise)
        noisy = np.minimum(image, 255 - more)
        noisy += more
        np.maximum(noisy, less, out=noisy)
        noisy -= less
        return noisy


def board_image(tiles: NDArray[np.integer], atlas: NDArray[np.uint8], border_px: int) -> NDArray[np.uint8]:
    """The picture of a grid of tiles with a white border.

    tiles: [rows, cols], indices into the atlas [K, tile_px, tile_px, 3].
    Returns uint8 [rows * tile_px + 2 * border_px, cols * tile_px + 2 * border_px, 3], a new array.
    """
    rows, cols = tiles.shape
    tile_px = atlas.shape[1]
    if border_px == 0:
        # Each line of pixels of each sprite is copied once, straight to its place.
        lines = np.arange(len(atlas) * tile_px).reshape(len(atlas), tile_px)[tiles]
        board: NDArray[np.uint8] = atlas.reshape(-1, tile_px * 3).take(lines.transpose(0, 2, 1), axis=0)
        return board.reshape(rows * tile_px, cols * tile_px, 3)
    image = np.full((rows * tile_px + 2 * border_px, cols * tile_px + 2 * border_px, 3), WHITE, dtype=np.uint8)
    inner = image[border_px : border_px + rows * tile_px, border_px : border_px + cols * tile_px]
    strips = atlas.reshape(len(atlas), tile_px, tile_px * 3)
    # A view: splits the pixels into [row, y, col, x and channel]. Row by row keeps the copies in the processor's cache.
    for pixels, row in zip(inner.reshape(rows, tile_px, cols, tile_px * 3), tiles, strict=True):
        pixels[:] = strips[row].transpose(1, 0, 2)
    return image


def empty_cell(tile_px: int) -> NDArray[np.uint8]:
    """White with a light grey grid line along each edge: uint8 [tile_px, tile_px, 3]."""
    line_px = _line_px(tile_px)
    cell = np.full((tile_px, tile_px, 3), GRID, dtype=np.uint8)
    cell[line_px:-line_px, line_px:-line_px] = WHITE
    return cell


def _line_px(tile_px: int) -> int:
    return max(1, tile_px // 64)


def _shifted(sprite: NDArray[np.uint8], down_px: int, right_px: int) -> NDArray[np.uint8]:
    """The drawing inside the grid lines moved; what leaves the cell is lost."""
    line_px = _line_px(len(sprite))
    inner = sprite[line_px:-line_px, line_px:-line_px]
    moved = np.full_like(inner, WHITE)
    side = len(inner)
    moved[max(down_px, 0) : side + down_px, max(right_px, 0) : side + right_px] = inner[
        max(-down_px, 0) : side - down_px, max(-right_px, 0) : side - right_px
    ]
    result = sprite.copy()
    result[line_px:-line_px, line_px:-line_px] = moved
    return result


def _add_distractors(image: NDArray[np.uint8], count: int, tile_px: int, rng: np.random.Generator) -> None:
    """Puts marks in random colors at random places of the picture."""
    marks = _marks(tile_px)
    side = marks.shape[1]
    kinds = rng.integers(len(marks), size=count).tolist()
    tops = rng.integers(image.shape[0] - side + 1, size=count).tolist()
    lefts = rng.integers(image.shape[1] - side + 1, size=count).tolist()
    colors = rng.integers(256, size=(count, 3), dtype=np.uint8)
    for kind, top, left, color in zip(kinds, tops, lefts, colors, strict=True):
        image[top : top + side, left : left + side][marks[kind]] = color


@cache
def _marks(tile_px: int) -> NDArray[np.bool_]:
    """The pixels of short strokes and dots, none longer than about a quarter of a tile: [_NUM_MARKS, side, side]."""
    rng = np.random.default_rng(0)
    reach = max(2, tile_px // 8)
    marks = []
    for number in range(_NUM_MARKS):
        picture = Image.new("1", (2 * reach + 1, 2 * reach + 1))
        pen = ImageDraw.Draw(picture)
        if number % 2:
            dx, dy = rng.integers(-reach, reach + 1, size=2).tolist()
            pen.line((reach, reach, reach + dx, reach + dy), fill=1, width=max(1, tile_px // 32))
        else:
            radius = int(rng.integers(1, max(1, reach // 3) + 1))
            pen.ellipse((reach - radius, reach - radius, reach + radius, reach + radius), fill=1)
        marks.append(np.asarray(picture))
    return np.stack(marks)
