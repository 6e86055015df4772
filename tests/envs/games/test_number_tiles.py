from itertools import combinations

import numpy as np
import pytest

from vlmgym_envs.draw import GRID, WHITE
from vlmgym_envs.games._number_tiles import ARTS, COLORS, number_atlas


@pytest.mark.parametrize("art", ARTS)
@pytest.mark.parametrize("tile_px", [16, 56, 112])
def test_there_is_a_sprite_for_every_number(art: str, tile_px: int) -> None:
    atlas = number_atlas(art, tile_px)
    assert atlas.shape == (18, tile_px, tile_px, 3) and atlas.dtype == np.uint8
    assert not atlas.flags.writeable
    assert (atlas[:, 0] == GRID).all() and (atlas[:, :, -1] == GRID).all()
    assert (atlas[0, 2:-2, 2:-2] == WHITE).all()
    assert len({sprite.tobytes() for sprite in atlas}) == 18
    assert number_atlas(art, tile_px) is atlas


def test_colors_alone_tell_the_numbers_apart() -> None:
    colors = np.array([(WHITE, WHITE, WHITE), *COLORS.values()])
    for first, second in combinations(colors, 2):
        assert np.abs(first - second).max() >= 127
    sprites = number_atlas("colors", 16)
    assert [tuple(sprite[8, 8]) for sprite in sprites[1:]] == list(COLORS.values())
    assert all((sprite[3:-3, 3:-3] == sprite[8, 8]).all() for sprite in sprites)


def test_the_tiny_tiles_of_vivid_keep_most_of_their_color() -> None:
    for sprite, color in zip(number_atlas("vivid", 16)[1:], COLORS.values(), strict=True):
        assert (np.abs(sprite.astype(int) - color).max(axis=-1) < 64).sum() > 60


def test_mono_tiles_differ_in_their_digits_alone() -> None:
    atlas = number_atlas("mono", 112).astype(int)
    corner = atlas[1:, 12:20, 12:20]
    assert (corner == corner[0, 0, 0]).all()
    for first, second in combinations(atlas[1:], 2):
        assert (np.abs(first - second).max(axis=-1) > 80).sum() > 100


@pytest.mark.parametrize("art", ["classic", "vivid", "mono"])
def test_digits_stand_about_the_middle_and_keep_off_the_edge(art: str) -> None:
    for sprite in number_atlas(art, 112)[1:].astype(int):
        inner = sprite[18:-18, 6:-6]  # without the grid lines and the white corners
        ys, xs = np.nonzero(np.abs(inner - inner[0, 0]).max(axis=-1) > 100)
        assert len(ys) > 150
        assert abs(18 + (ys.min() + ys.max()) / 2 - 55.5) < 2
        assert abs(6 + (xs.min() + xs.max()) / 2 - 55.5) < 4
        assert 6 + xs.min() >= 10 and 6 + xs.max() <= 101
