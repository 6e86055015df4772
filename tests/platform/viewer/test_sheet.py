"""Boards as numbers of tiles, held against the pictures they came from."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vlmgym.viewer.sheet import COLUMNS, MAX_TILES, TileSheet
from vlmgym_envs.registry import make_game
from vlmgym_policies.prompting import png


def pixels(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("id", "level"), [("shisen_sho", "tiny"), ("shisen_sho", "paper"), ("maze", "tiny"), ("twenty48", "tiny")]
)
def test_a_board_is_put_together_again_from_its_tiles(id: str, level: str) -> None:
    game = make_game(id, level)
    sheet = TileSheet(game.level.tile_px, game.level.border_px)
    pictures = [game.render(game.mid_game(seed)) for seed in range(4)]
    drawn = [sheet.add(png(picture)) for picture in pictures]
    tiles = pixels(str(sheet.picture()))
    side, border = game.level.tile_px, game.level.border_px
    for picture, board in zip(pictures, drawn, strict=True):
        again = np.full_like(picture, 255)
        cols = (picture.shape[1] - 2 * border) // side
        for cell, tile in enumerate(board["tiles"]):
            (row, col), (top, left) = divmod(cell, cols), divmod(tile, COLUMNS)
            y, x = border + row * side, border + col * side
            again[y : y + side, x : x + side] = tiles[top * side :, left * side :][:side, :side]
        assert np.array_equal(again, picture)


def test_equal_tiles_are_kept_once() -> None:
    sheet = TileSheet(8, 0)
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :8] = 200
    assert sheet.add(png(picture)) == {"tiles": [0, 1, 1, 1, 1, 1]}
    assert pixels(str(sheet.picture())).shape == (8, 8 * COLUMNS, 3)


@pytest.mark.parametrize("size", [(16, 20), (4, 8)])
def test_a_picture_that_is_no_board_of_tiles_stays_one(size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    sheet = TileSheet(8, 0)
    assert np.array_equal(pixels(sheet.add(png(picture))["picture"]), picture)
    assert sheet.picture() is None


def test_a_border_that_is_not_white_is_not_lost() -> None:
    picture = np.full((20, 20, 3), 255, np.uint8)
    picture[0, 0] = 0
    assert "picture" in TileSheet(8, 2).add(png(picture))


def test_noise_fills_a_sheet_only_so_far() -> None:
    sheet = TileSheet(8, 0)
    rng = np.random.default_rng(0)
    drawn = [sheet.add(png(rng.integers(256, size=(64, 64, 3), dtype=np.uint8))) for _ in range(10)]
    assert [list(board) for board in drawn] == [["tiles"]] * (MAX_TILES // 64) + [["picture"]] * (10 - MAX_TILES // 64)
