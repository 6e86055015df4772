import pytest

from vlmgym_envs.games._tiles import PictureTiles, TileSet


def test_a_tile_counts_shapes_first_then_colors() -> None:
    names = TileSet(num_colors=2, num_shapes=3).names()
    assert names == [
        "-",
        "Red circle",
        "Red square",
        "Red triangle",
        "Green circle",
        "Green square",
        "Green triangle",
    ]


def test_a_board_is_written_cell_by_cell() -> None:
    tiles = TileSet(num_colors=2, num_shapes=3)
    board = bytes([1, 0, 6, 4, 0, 0])
    assert tiles.write(board, cols=3) == " Red circle | - | Green triangle \n Green circle | - | - "
    assert tiles.write(board, cols=2) == " Red circle | - \n Green triangle | Green circle \n - | - "
    cells = [["Red circle", "-", "Green triangle"], ["Green circle", "-", "-"]]
    assert tiles.read(cells, rows=2, cols=3) == board


@pytest.mark.parametrize("cell", ["red circle", "Red  circle", "Blue circle", "Red star", "", "--"])
def test_another_cell_is_refused(cell: str) -> None:
    with pytest.raises(ValueError) as error:
        TileSet(2, 3).read([["-", "-"], ["-", cell]], rows=2, cols=2)
    assert str(error.value) == f"row 1, col 1: {cell!r} is no tile of this level"


def test_a_picture_is_called_like_its_class() -> None:
    tiles = PictureTiles(("cat", "fire truck"))
    assert (tiles.num_kinds, tiles.names()) == (2, ["-", "cat", "fire truck"])
    assert tiles.write(bytes([1, 0, 2, 2]), cols=2) == " cat | - \n fire truck | fire truck "
    assert tiles.read([["cat", "-"], ["fire truck", "fire truck"]], rows=2, cols=2) == bytes([1, 0, 2, 2])
    with pytest.raises(ValueError, match="row 0, col 1: 'dog' is no tile of this level"):
        tiles.read([["cat", "dog"]], rows=1, cols=2)
