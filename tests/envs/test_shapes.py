from itertools import combinations

import numpy as np
import pytest

from vlmgym_envs.draw import GRID, WHITE
from vlmgym_envs.shapes import ARTS, COLORS, SHAPES, tile_atlas


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


MARGINS = {"plain": 20, "outline": 20, "striped": 12, "checked": 20, "stencil": 20, "dark": 20}
"""Pixels of 256 in which any two tiles differ by more than 80 in some channel."""


@pytest.mark.parametrize(("art", "margin"), MARGINS.items())
def test_all_tiles_differ_clearly_at_16_pixels(art: str, margin: int) -> None:
    atlas = tile_atlas(len(COLORS), len(SHAPES), 16, art).astype(int)
    for first, second in combinations(range(len(atlas)), 2):
        far_pixels = (np.abs(atlas[first] - atlas[second]).max(axis=-1) > 80).sum()
        assert far_pixels >= margin, (first, second)


def test_every_art_is_checked_and_different() -> None:
    assert set(MARGINS) == set(ARTS)
    assert len({tile_atlas(2, 2, 32, art).tobytes() for art in ARTS}) == len(ARTS)


@pytest.mark.parametrize("art", ARTS)
def test_the_empty_cell_and_the_grid_lines_are_those_of_every_art(art: str) -> None:
    plain, atlas = tile_atlas(2, 2, 32), tile_atlas(2, 2, 32, art)
    assert np.array_equal(atlas[0], plain[0])
    assert (atlas[:, 0] == GRID).all() and (atlas[:, :, -1] == GRID).all()


def test_each_art_shows_the_color_where_it_says() -> None:
    red = COLORS["Red"]
    square = {art: tile_atlas(1, 2, 100, art)[2] for art in ARTS}
    # A square from 16 to 84 of 100: its middle, its border line, and the plate or the background outside of it.
    middle, line, outside = (50, 50), (50, 19), (50, 9)
    white = (WHITE, WHITE, WHITE)
    assert [tuple(square["plain"][place]) for place in (middle, line, outside)] == [red, red, white]
    assert [tuple(square["outline"][place]) for place in (middle, line, outside)] == [white, red, white]
    assert [tuple(square["stencil"][place]) for place in (middle, line, outside)] == [white, white, red]
    assert [tuple(square["dark"][place]) for place in (middle, line)] == [red, white]
    assert max(square["dark"][outside]) < 100
    assert tuple(square["checked"][middle]) == red
    # Along a row the stripes change every 11 pixels between red and half of it.
    stripes = {tuple(pixel) for pixel in square["striped"][50, 20:80].tolist()}
    assert red in stripes and max(pixel[1] for pixel in stripes) > 120


def test_an_unknown_art_is_refused() -> None:
    with pytest.raises(
        ValueError, match="art must be one of plain, outline, striped, checked, stencil, dark, got 'flat'"
    ):
        tile_atlas(1, 1, 16, "flat")
