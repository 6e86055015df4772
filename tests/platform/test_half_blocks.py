import io

import numpy as np
import pytest
from rich.console import Console

from vlmgym.half_blocks import HalfBlocks


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (10, 8, (10, 8)),  # fits as it is
        (100, 100, (20, 20)),  # 10 lines are 20 pixels
        (100, 400, (10, 40)),  # 40 columns
        (9, 5, (8, 5)),  # two pixels to a line
        (1, 1, (2, 1)),
    ],
)
def test_a_picture_is_scaled_down_but_never_up(height: int, width: int, shown: tuple[int, int]) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    assert HalfBlocks(image, max_cols=40, max_lines=10).pixels.shape[:2] == shown


def test_a_character_is_two_pixels_and_equal_ones_share_their_colors() -> None:
    image = np.array([[[1, 2, 3]] * 3, [[4, 5, 6], [4, 5, 6], [7, 8, 9]]], dtype=np.uint8)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=10, no_color=False)
    console.print(HalfBlocks(image, 10, 10))
    assert out.getvalue() == "\x1b[38;2;1;2;3;48;2;4;5;6m▀▀\x1b[0m\x1b[38;2;1;2;3;48;2;7;8;9m▀\x1b[0m\n"
