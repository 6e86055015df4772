"""Decides how coloured shapes look: sprites, drawn once per tile size, larger than needed and scaled down."""

from functools import cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlmgym_envs.draw import WHITE, empty_cell

Point = tuple[float, float]
RGB = tuple[int, int, int]
Cover = NDArray[np.float64]
"""How much of each pixel something covers, 0..1, [tile_px, tile_px]."""

COLORS: dict[str, RGB] = {
    "Red": (220, 20, 30),
    "Green": (20, 150, 50),
    "Blue": (20, 60, 220),
    "Yellow": (240, 200, 0),
    "Magenta": (220, 40, 220),
    "Cyan": (0, 195, 215),
    "Brown": (125, 70, 20),
    "Black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "heart")

ARTS = ("plain", "outline", "striped", "checked", "stencil", "dark")
"""How a shape is drawn.

plain: filled. outline: its border line alone. striped: filled with dark and light stripes. checked: filled, on a
grey and white chessboard. stencil: white, on a plate of its color. dark: filled, with a white rim, on a dark plate.
"""

_OVERSAMPLING = 4
# In tiles.
_PLATE_MARGIN = 0.05
_LINE = 0.09
_RIM = 0.05
_STRIPE = 0.11
_LIGHT = 0.5
"""How strong the light stripes are."""

_WHITE: RGB = (WHITE, WHITE, WHITE)
_GREY: RGB = (190, 190, 196)
_CHARCOAL: RGB = (62, 66, 76)


@cache
def tile_atlas(num_colors: int, num_shapes: int, tile_px: int, art: str = "plain") -> NDArray[np.uint8]:
    """The sprites of all tiles, uint8 [1 + num_colors * num_shapes, tile_px, tile_px, 3], read-only.

    Index 0 is the empty cell, the same for every art; index 1 + color * num_shapes + shape a kind. art: one of `ARTS`.
    """
    empty = empty_cell(tile_px)
    sprites = [empty]
    for rgb in list(COLORS.values())[:num_colors]:
        sprites += [_sprite(empty, rgb, shape, art) for shape in SHAPES[:num_shapes]]
    atlas = np.stack(sprites)
    atlas.flags.writeable = False
    return atlas


def _sprite(empty: NDArray[np.uint8], rgb: RGB, shape: str, art: str) -> NDArray[np.uint8]:
    image = empty.astype(np.float64)
    for cover, color in _layers(rgb, shape, art, len(empty)):
        image = image * (1 - cover[..., None]) + np.array(color) * cover[..., None]
    return np.rint(image).astype(np.uint8)


def _layers(rgb: RGB, shape: str, art: str, tile_px: int) -> list[tuple[Cover, RGB]]:
    """What is painted over the empty cell, from the bottom to the top."""
    fill, plate = _shape_cover(shape, tile_px), _plate_cover(tile_px)
    match art:
        case "plain":
            return [(fill, rgb)]
        case "outline":
            return [(_line_cover(shape, tile_px, _LINE), rgb)]
        case "striped":
            return [(fill * _stripes(tile_px), rgb)]
        case "checked":
            return [(plate * _checks(tile_px), _GREY), (fill, rgb)]
        case "stencil":
            return [(plate, rgb), (fill, _WHITE)]
        case "dark":
            return [(plate, _CHARCOAL), (fill, _WHITE), (fill - _line_cover(shape, tile_px, _RIM), rgb)]
        case _:
            raise ValueError(f"art must be one of {', '.join(ARTS)}, got {art!r}")


@cache
def _shape_cover(shape: str, tile_px: int) -> Cover:
    """The whole of a shape."""
    side = tile_px * _OVERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(canvas)
    if shape == "circle":
        pen.ellipse(_box(0.12, side), fill=255)
    elif shape == "ring":
        pen.ellipse(_box(0.10, side), fill=255)
        pen.ellipse(_box(0.32, side), fill=0)
    else:
        pen.polygon([(x * side, y * side) for x, y in _outline(shape)], fill=255)
    return _scaled_down(canvas, tile_px)


@cache
def _line_cover(shape: str, tile_px: int, line: float) -> Cover:
    """A line along the border of a shape, inside it; its width in tiles."""
    side = tile_px * _OVERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(canvas)
    width = round(line * side)
    if shape == "circle":
        pen.ellipse(_box(0.12, side), outline=255, width=width)
    elif shape == "ring":
        pen.ellipse(_box(0.10, side), outline=255, width=width)
        pen.ellipse(_box(0.32 - line, side), outline=255, width=width)
    else:
        pen.polygon([(x * side, y * side) for x, y in _outline(shape)], outline=255, width=width)
    return _scaled_down(canvas, tile_px)


@cache
def _plate_cover(tile_px: int) -> Cover:
    """A square that leaves a margin inside the cell."""
    side = tile_px * _OVERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    ImageDraw.Draw(canvas).rectangle(_box(_PLATE_MARGIN, side), fill=255)
    return _scaled_down(canvas, tile_px)


@cache
def _stripes(tile_px: int) -> Cover:
    """Diagonal stripes of full strength with lighter ones between them."""
    y, x = np.indices((tile_px * _OVERSAMPLING,) * 2) / (tile_px * _OVERSAMPLING)
    full = (x + y) % (2 * _STRIPE) < _STRIPE
    return _scaled_down(Image.fromarray(np.where(full, 255, round(255 * _LIGHT)).astype(np.uint8)), tile_px)


@cache
def _checks(tile_px: int) -> Cover:
    """Every other square of a chessboard of 6 x 6 squares."""
    y, x = np.indices((tile_px * _OVERSAMPLING,) * 2) * 6 // (tile_px * _OVERSAMPLING)
    return _scaled_down(Image.fromarray(((x + y) % 2 * 255).astype(np.uint8)), tile_px)


def _scaled_down(canvas: Image.Image, tile_px: int) -> Cover:
    small = canvas.resize((tile_px, tile_px), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def _box(margin: float, side: int) -> tuple[float, float, float, float]:
    return margin * side, margin * side, (1 - margin) * side - 1, (1 - margin) * side - 1


def _outline(shape: str) -> list[Point]:
    """The corners of a polygon in a unit square, y pointing down."""
    match shape:
        case "square":
            return [(0.16, 0.16), (0.84, 0.16), (0.84, 0.84), (0.16, 0.84)]
        case "triangle":
            return [(0.5, 0.1), (0.92, 0.86), (0.08, 0.86)]
        case "diamond":
            return [(0.5, 0.06), (0.82, 0.5), (0.5, 0.94), (0.18, 0.5)]
        case "cross":
            near, far, low, high = 0.36, 0.64, 0.1, 0.9
            upper = [(near, low), (far, low), (far, near), (high, near), (high, far), (far, far)]
            return [*upper, (far, high), (near, high), (near, far), (low, far), (low, near), (near, near)]
        case "star":
            radii = [0.48 if corner % 2 == 0 else 0.2 for corner in range(10)]
            angles = [-pi / 2 + corner * pi / 5 for corner in range(10)]
            return [(0.5 + r * cos(angle), 0.54 + r * sin(angle)) for r, angle in zip(radii, angles, strict=True)]
        case "heart":
            turns = [2 * pi * step / 60 for step in range(60)]
            return [(0.5 + 0.026 * 16 * sin(t) ** 3, 0.46 - 0.026 * _heart_height(t)) for t in turns]
        case _:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")


def _heart_height(turn: float) -> float:
    return 13 * cos(turn) - 5 * cos(2 * turn) - 2 * cos(3 * turn) - cos(4 * turn)
