"""Decides how the boards of a page are stored: as numbers of tiles, each different tile once.

A picture that is no board of few tiles, as one with noise, is stored as it is.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmgym_policies.prompting import png

MAX_TILES = 512
"""Different tiles of a sheet. A level without noise and distractors has far fewer; 512 of 112 px take 25 MB drawn."""
COLUMNS = 16
WHITE = 255


class TileSheet:
    """The different tiles of the pictures of one level. tile_px: None where pictures are no boards of tiles."""

    def __init__(self, tile_px: int | None, border_px: int) -> None:
        self._tile_px = tile_px
        self._border_px = border_px
        self._tiles: dict[bytes, int] = {}

    def add(self, picture: bytes) -> dict[str, Any]:
        """How the page draws a PNG: {"tiles": numbers in reading order}, or {"picture": data URL}."""
        tiles = self._cut(picture)
        new = list(dict.fromkeys(tile for tile in tiles if tile not in self._tiles))
        if not tiles or len(self._tiles) + len(new) > MAX_TILES:
            return {"picture": data_url(picture)}
        for tile in new:
            self._tiles[tile] = len(self._tiles)
        return {"tiles": [self._tiles[tile] for tile in tiles]}

    def picture(self) -> str | None:
        """The sheet, COLUMNS tiles to a row, as a data URL; None without a tile."""
        if not self._tiles:
            return None
        side = self._tile_px
        assert side is not None
        rows = -(-len(self._tiles) // COLUMNS)
        sheet = np.full((rows * side, COLUMNS * side, 3), WHITE, dtype=np.uint8)
        for tile, number in self._tiles.items():
            top, left = (side * place for place in divmod(number, COLUMNS))
            sheet[top : top + side, left : left + side] = np.frombuffer(tile, dtype=np.uint8).reshape(side, side, 3)
        return data_url(png(sheet))

    def _cut(self, picture: bytes) -> list[bytes]:
        """The tiles in reading order; none where the picture is no whole number of them within a white border."""
        side, border = self._tile_px, self._border_px
        with Image.open(io.BytesIO(picture)) as image:
            pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
        height, width = (length - 2 * border for length in pixels.shape[:2])
        if side is None or min(height, width) < side or height % side or width % side:
            return []
        inner = pixels[border : border + height, border : border + width]
        if int(pixels.sum()) - int(inner.sum()) != WHITE * (pixels.size - inner.size):
            return []
        blocks = inner.reshape(height // side, side, width // side, side, 3).swapaxes(1, 2)
        return [tile.tobytes() for row in blocks for tile in row]


def data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
