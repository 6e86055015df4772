import numpy as np
import pytest

from vlmgym_envs.draw import GRID, WHITE, BoardPainter, board_image
from vlmgym_envs.level import BoardLevel
from vlmgym_envs.shapes import tile_atlas


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


TILES = np.arange(12).reshape(3, 4) % 5


def paint(tiles: np.ndarray, **knobs: int) -> np.ndarray:
    level = BoardLevel(tile_px=32, border_px=4, **knobs)
    return BoardPainter(3, 4, tile_atlas(2, 2, 32), level).paint(tiles)


def test_a_painter_without_knobs_paints_the_board() -> None:
    assert np.array_equal(paint(TILES), board_image(TILES, tile_atlas(2, 2, 32), 4))


@pytest.mark.parametrize("knobs", [{"jitter": 20}, {"noise": 30}, {"distractors": 20}, {"jitter": 25, "noise": 9}])
def test_one_board_has_one_picture_however_hard_to_read(knobs: dict[str, int]) -> None:
    plain, hard = paint(TILES), paint(TILES, **knobs)
    assert hard.shape == plain.shape == (104, 136, 3) and hard.dtype == np.uint8
    assert np.array_equal(hard, paint(TILES, **knobs))
    assert not np.array_equal(hard, plain)
    changed = TILES.copy()
    changed[0, 0] = 4
    assert not np.array_equal(paint(changed, **knobs)[40:], hard[40:])  # other cells look different, too


def test_noise_has_the_stated_deviation() -> None:
    grey = np.full((5, 16, 16, 3), 128, dtype=np.uint8)
    image = BoardPainter(8, 8, grey, BoardLevel(tile_px=16, border_px=0, noise=20)).paint(np.zeros((8, 8), dtype=int))
    assert abs(image.mean() - 128) < 1 and abs(image.std() - 20) < 1


def test_jitter_keeps_grid_lines_and_drawings_whole() -> None:
    """A shift of at most 10% of 32 px = 3 px leaves a square with 16% margin inside its cell."""
    atlas = tile_atlas(1, 2, 32)
    image = BoardPainter(4, 4, atlas, BoardLevel(tile_px=32, border_px=0, jitter=10)).paint(np.full((4, 4), 2))
    cells = image.reshape(4, 32, 4, 32, 3).swapaxes(1, 2).reshape(16, 32, 32, 3)
    assert (cells[:, 0] == GRID).all() and (cells[:, :, -1] == GRID).all()
    assert len({cell.tobytes() for cell in cells}) > 3
    red = (cells[..., 1] < 128).sum(axis=(1, 2))
    assert len(set(red.tolist())) == 1
