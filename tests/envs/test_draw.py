from itertools import combinations

import numpy as np
import pytest

from vlmgym_envs.draw import COLORS, GRID, SHAPES, WHITE, board_image, tile_atlas


@pytest.mark.parametrize("tile_px", [8, 16, 56, 112])
def test_sprites_have_their_size_and_a_grid_line_around(tile_px: int) -> None:
    atlas = tile_atlas(2, 3, tile_px)
    assert atlas.shape == (7, tile_px, tile_px, 3) and atlas.dtype == np.uint8
    empty = atlas[0]
    assert (empty[0] == GRID).all() and (empty[:, -1] == GRID).all()
    assert (empty[tile_px // 4 : -tile_px // 4, tile_px // 4 : -tile_px // 4] == WHITE).all()
    assert not atlas.flags.writeable


def test_a_sprite_shows_its_color_and_shape() -> None:
    red_circle, red_square, green_circle = tile_atlas(2, 2, 32)[[1, 2, 3]]
    assert tuple(red_circle[16, 16]) == COLORS["Red"]
    assert tuple(green_circle[16, 16]) == COLORS["Green"]
    # The corner at a quarter of a diagonal belongs to the square alone.
    assert tuple(red_square[7, 7]) == COLORS["Red"]
    assert tuple(red_circle[6, 6]) == (WHITE, WHITE, WHITE)


def test_all_tiles_differ_clearly_at_16_pixels() -> None:
    atlas = tile_atlas(len(COLORS), len(SHAPES), 16).astype(int)
    for first, second in combinations(range(len(atlas)), 2):
        far_pixels = (np.abs(atlas[first] - atlas[second]).max(axis=-1) > 80).sum()
        assert far_pixels >= 20, (first, second)


def test_a_board_puts_each_tile_in_its_cell() -> None:
    atlas = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    tiles = np.array([[0, 1, 2], [2, 2, 0]])
    image = board_image(tiles, atlas, border_px=1)
    assert image.shape == (6, 8, 3)
    for row in range(2):
        for col in range(3):
            cell = image[1 + 2 * row : 3 + 2 * row, 1 + 2 * col : 3 + 2 * col]
            assert np.array_equal(cell, atlas[tiles[row, col]])
    assert (image[[0, -1]] == WHITE).all() and (image[:, [0, -1]] == WHITE).all()
