from itertools import combinations

import numpy as np
import pytest

from vlmgym_envs.draw import empty_cell
from vlmgym_envs.games._things import ARTS, Things

ALL = Things(("-", "?", "wall", "goal", "box", "box on goal", "player", "player on goal"))


def test_a_board_is_written_cell_by_cell() -> None:
    board = bytes([0, 5, 2, 1, 6, 0])
    assert ALL.write(board, cols=3) == " - | box on goal | wall \n ? | player | - "
    assert ALL.write(board, cols=2) == " - | box on goal \n wall | ? \n player | - "
    assert ALL.read([["-", "box on goal", "wall"], ["?", "player", "-"]], rows=2, cols=3) == board


@pytest.mark.parametrize("cell", ["Box", "box  on goal", "goal box", "", "--", "rock"])
def test_another_cell_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match=f"row 1, col 1: {cell!r} is no tile"):
        ALL.read([["-", "-"], ["-", cell]], rows=2, cols=2)


@pytest.mark.parametrize("tile_px", [8, 16, 56])
@pytest.mark.parametrize("art", ARTS)
def test_no_two_sprites_of_an_art_are_alike(art: str, tile_px: int) -> None:
    atlas = ALL.atlas(art, tile_px)
    assert atlas.shape == (8, tile_px, tile_px, 3) and atlas.dtype == np.uint8 and not atlas.flags.writeable
    for one, other in combinations(atlas.astype(int), 2):
        # In at least a twentieth of its pixels, one that the eye can tell.
        assert (abs(one - other).max(axis=2) > 24).mean() > 0.05


def test_arts_differ_and_a_plain_floor_is_an_empty_cell() -> None:
    floors = [Things(("-",)).atlas(art, 16)[0] for art in ARTS]
    assert np.array_equal(floors[0], empty_cell(16))
    assert len({floor.tobytes() for floor in floors}) == len(ARTS) == 3


def test_what_stands_on_a_goal_leaves_the_goal_to_be_seen() -> None:
    for art in ARTS:
        floor, _, _, goal, box, box_on_goal, player, player_on_goal = ALL.atlas(art, 56)
        of_goal = (goal != floor).any(axis=2)
        for thing, both in ((box, box_on_goal), (player, player_on_goal)):
            of_thing = (thing != floor).any(axis=2)
            shown = of_goal & ~of_thing
            assert shown.sum() > 0.03 * shown.size
            assert np.array_equal(both[shown], goal[shown])
            assert np.array_equal(both[of_thing & ~of_goal], thing[of_thing & ~of_goal])
