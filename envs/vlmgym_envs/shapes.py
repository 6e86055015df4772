"""Decides how coloured shapes look: sprites, drawn once per tile size, larger than needed and scaled down."""

from functools import cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlmgym_envs.draw import empty_cell

COLORS: dict[str, tuple[int, int, int]] = {
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

_OVERSAMPLING = 4

Point = tuple[float, float]


@cache
def tile_atlas(num_colors: int, num_shapes: int, tile_px: int) -> NDArray[np.uint8]:
    """The sprites of all tiles, uint8 [1 + num_colors * num_shapes, tile_px, tile_px, 3], read-only.

    Index 0 is the empty cell, index 1 + color * num_shapes + shape a kind.
    """
    empty = empty_cell(tile_px)
    sprites = [empty]
    for rgb in list(COLORS.values())[:num_colors]:
        for shape in SHAPES[:num_shapes]:
            cover = _shape_cover(shape, tile_px)[..., None]
            sprites.append(np.rint(empty * (1 - cover) + np.array(rgb) * cover).astype(np.uint8))
    atlas = np.stack(sprites)
    atlas.flags.writeable = False
    return atlas


@cache
def _shape_cover(shape: str, tile_px: int) -> NDArray[np.float64]:
    """How much of each pixel a shape covers, 0..1, [tile_px, tile_px]."""
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
