"""Decides how the things on a floor (walls, goals, boxes, a player) are called and drawn."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlmgym_envs.draw import empty_cell
from vlmgym_envs.games._tiles import NamedTiles

RGB = tuple[int, int, int]
Mark = tuple[Literal["rectangle", "ellipse", "polygon"], RGB, tuple[float, ...]]
"""What to fill, with which color, and x, y, x, y, ... in a unit square, y pointing down."""

ALL = (0.0, 0.0, 1.0, 1.0)
_BRICKS = [(0, 0, 0.46, 0.3), (0.54, 0, 1, 0.3), (0, 0.7, 0.46, 1), (0.54, 0.7, 1, 1)]
_BRICKS += [(0, 0.35, 0.2, 0.65), (0.28, 0.35, 0.72, 0.65), (0.8, 0.35, 1, 0.65)]

ARTS: dict[str, dict[str, tuple[Mark, ...]]] = {
    "plain": {
        "-": (),
        "?": (("rectangle", (190, 195, 210), ALL),),
        "wall": (("rectangle", (60, 65, 75), ALL),),
        "goal": (
            ("rectangle", (20, 150, 50), (0.06, 0.06, 0.94, 0.94)),
            ("rectangle", (255, 255, 255), (0.2, 0.2, 0.8, 0.8)),
        ),
        "box": (("rectangle", (150, 90, 30), (0.26, 0.26, 0.74, 0.74)),),
        "player": (("ellipse", (20, 60, 220), (0.22, 0.22, 0.78, 0.78)),),
    },
    "yard": {
        "-": (("rectangle", (236, 224, 196), ALL),),
        "?": (("rectangle", (95, 100, 120), ALL), ("ellipse", (130, 135, 155), (0.1, 0.1, 0.9, 0.9))),
        "wall": (
            ("rectangle", (200, 190, 180), ALL),
            *(("rectangle", (165, 70, 50), brick) for brick in _BRICKS),
        ),
        "goal": (
            ("polygon", (200, 30, 60), (0.04, 0.16, 0.16, 0.04, 0.96, 0.84, 0.84, 0.96)),
            ("polygon", (200, 30, 60), (0.84, 0.04, 0.96, 0.16, 0.16, 0.96, 0.04, 0.84)),
        ),
        "box": (
            ("rectangle", (110, 65, 25), (0.18, 0.18, 0.82, 0.82)),
            ("rectangle", (205, 155, 85), (0.27, 0.27, 0.73, 0.73)),
            ("polygon", (110, 65, 25), (0.24, 0.66, 0.66, 0.24, 0.76, 0.34, 0.34, 0.76)),
        ),
        "player": (
            ("polygon", (30, 110, 120), (0.5, 0.3, 0.76, 0.86, 0.24, 0.86)),
            ("ellipse", (70, 35, 20), (0.36, 0.12, 0.64, 0.4)),
        ),
    },
    "dusk": {
        "-": (("rectangle", (44, 48, 60), ALL),),
        "?": (("rectangle", (24, 25, 32), ALL),),
        "wall": (("rectangle", (74, 78, 92), ALL),),
        "goal": (
            ("polygon", (120, 115, 60), (0.5, 0.02, 0.98, 0.5, 0.5, 0.98, 0.02, 0.5)),
            ("polygon", (44, 48, 60), (0.5, 0.18, 0.82, 0.5, 0.5, 0.82, 0.18, 0.5)),
        ),
        "box": (("rectangle", (112, 82, 66), (0.28, 0.28, 0.72, 0.72)),),
        "player": (("polygon", (84, 112, 140), (0.5, 0.2, 0.78, 0.74, 0.22, 0.74)),),
    },
}
"""Looks by name: "plain" is the clearest, "yard" has textures, "dusk" has little contrast."""

_OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Things(NamedTiles):
    """What may stand on a cell: the number of a thing is its place in `words`. "box on goal" is a box on a goal."""

    words: tuple[str, ...]

    @property
    def num_kinds(self) -> int:
        return len(self.words) - 1

    def name(self, tile: int) -> str:
        return self.words[tile]

    def atlas(self, art: str, tile_px: int) -> NDArray[np.uint8]:
        """The sprites of all things in one of the `ARTS`, uint8 [len(words), tile_px, tile_px, 3], read-only."""
        return _atlas(self.words, art, tile_px)


@cache
def _atlas(words: tuple[str, ...], art: str, tile_px: int) -> NDArray[np.uint8]:
    atlas = np.stack([_sprite(word, art, tile_px) for word in words])
    atlas.flags.writeable = False
    return atlas


def _sprite(word: str, art: str, tile_px: int) -> NDArray[np.uint8]:
    """The floor, and on it the parts of "player on goal" from the last to the first."""
    large = empty_cell(tile_px).repeat(_OVERSAMPLING, axis=0).repeat(_OVERSAMPLING, axis=1)
    canvas = Image.fromarray(large)
    pen = ImageDraw.Draw(canvas)
    for part in ("-", *reversed(word.split(" on "))):
        for kind, color, corners in ARTS[art][part]:
            ends = [corner * (len(large) - 1) for corner in corners]
            match kind:
                case "rectangle":
                    pen.rectangle(ends, fill=color)
                case "ellipse":
                    pen.ellipse(ends, fill=color)
                case "polygon":
                    pen.polygon(ends, fill=color)
    return np.array(canvas.resize((tile_px, tile_px), Image.Resampling.BOX))
