"""Decides how a picture is shown in a terminal: each character is two pixels, one above the other."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

UPPER_HALF = "▀"


class HalfBlocks:
    """A picture for rich to print, scaled down to at most `max_cols` characters and `max_lines` lines.

    image: uint8 [H, W, 3].
    """

    def __init__(self, image: NDArray[np.uint8], max_cols: int, max_lines: int) -> None:
        height, width, _ = image.shape
        scale = min(1.0, max_cols / width, 2 * max_lines / height)
        cols, lines = max(1, int(width * scale)), max(1, int(height * scale / 2))
        picture = Image.fromarray(image).resize((cols, 2 * lines), Image.Resampling.BOX)
        self.pixels = np.asarray(picture)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for upper, lower in zip(self.pixels[::2].tolist(), self.pixels[1::2].tolist(), strict=True):
            for (top, bottom), run in groupby(zip(upper, lower, strict=True)):
                style = Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom))
                yield Segment(UPPER_HALF * len(list(run)), style)
            yield Segment.line()
