"""Decides how tiles of powers of two look: sprites, drawn once per size, larger than needed and scaled down."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlmgym_envs.draw import empty_cell

Color = tuple[int, int, int]

ARTS = ("classic", "vivid", "colors", "mono")
"""classic: digits on the colors of the web game. vivid: digits on a color of its own for each number. colors: the
colors of vivid without digits. mono: digits on one color."""

COLORS: dict[str, Color] = {
    "red": (255, 0, 0),
    "blue": (0, 0, 255),
    "green": (0, 128, 0),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "black": (0, 0, 0),
    "orange": (255, 128, 0),
    "lime": (0, 255, 0),
    "violet": (128, 0, 255),
    "maroon": (128, 0, 0),
    "azure": (0, 128, 255),
    "gray": (128, 128, 128),
    "pink": (255, 128, 255),
    "olive": (128, 128, 0),
    "navy": (0, 0, 128),
    "teal": (0, 128, 128),
}
"""One per exponent, 1..17; any two differ by at least 127 of 255 in some channel, and so from white."""

# Source: the style sheet of the web game, https://github.com/gabrielecirulli/2048; one color from 4096 on.
_CLASSIC: tuple[Color, ...] = (
    (238, 228, 218),
    (237, 224, 200),
    (242, 177, 121),
    (245, 149, 99),
    (246, 124, 95),
    (246, 94, 59),
    (237, 207, 114),
    (237, 204, 97),
    (237, 200, 80),
    (237, 197, 63),
    (237, 194, 46),
    *[(60, 58, 50)] * 6,
)
_MONO: Color = (205, 193, 180)
_DARK: Color = (40, 36, 32)
_LIGHT: Color = (255, 255, 255)

_OVERSAMPLING = 4
_MARGIN = 0.05
_RADIUS = 0.1
_DIGIT_SIZE = 0.66
_DIGITS_WIDTH = 0.8


@cache
def number_atlas(art: str, tile_px: int) -> NDArray[np.uint8]:
    """The sprites of all tiles, uint8 [18, tile_px, tile_px, 3], read-only: the empty cell, then 2, 4, .. 131072."""
    match art:
        case "classic":
            colors = _CLASSIC
        case "mono":
            colors = (_MONO,) * len(COLORS)
        case _:
            colors = tuple(COLORS.values())
    texts = ["" if art == "colors" else str(2 << index) for index in range(len(colors))]
    sprites = [_sprite(color, text, tile_px) for color, text in zip(colors, texts, strict=True)]
    atlas = np.stack([empty_cell(tile_px), *sprites])
    atlas.flags.writeable = False
    return atlas


def _sprite(color: Color, text: str, tile_px: int) -> NDArray[np.uint8]:
    """A rounded square in the middle of a cell, with the text in its middle."""
    side = tile_px * _OVERSAMPLING
    picture = Image.fromarray(empty_cell(tile_px)).resize((side, side), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    edge = max(_OVERSAMPLING, round(_MARGIN * side))
    pen.rounded_rectangle((edge, edge, side - edge - 1, side - edge - 1), radius=_RADIUS * side, fill=color)
    if text:
        font = ImageFont.load_default(size=_font_size(text, side))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        pen.text(((side - left - right) / 2, (side - top - bottom) / 2), text, font=font, fill=_ink(color))
    return np.array(picture.resize((tile_px, tile_px), Image.Resampling.BOX))


def _font_size(text: str, side: int) -> float:
    """The largest size at which the text keeps within its share of the tile's height and width."""
    unit = 100.0
    left, _, right, _ = ImageFont.load_default(size=unit).getbbox(text)
    return min(_DIGIT_SIZE * side, unit * _DIGITS_WIDTH * side / (right - left))


def _ink(color: Color) -> Color:
    """Dark on a light color, light on a dark one, by luma (ITU-R BT.601)."""
    red, green, blue = color
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else _LIGHT
