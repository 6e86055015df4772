"""Shisen-Sho: removes pairs of equal tiles that a path of at most two turns connects.

| State  | board, bytes [rows * cols]: 0 empty, else 1 + color * shapes + shape; num_moves, pairs removed so far |
| Action | ((row1, col1), (row2, col2)), counted from (0, 0) at the top left; the order of the two does not matter |
| Reward | 1.0 for a removed pair, so a game's sum is the number of pairs removed |
| Ends   | when no legal action is left: info["cleared"] says whether the board is empty or the player is stuck |
| Solver | first move of an order that clears the board, or of the longest one found within the bounds of _clearing.py |
| Source | arXiv 2505.13426 (G1, VLM-Gym): 6 x 6 cells, 6 colors x 6 shapes, four tiles of a kind |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._shisen import ShisenGame, ShisenLevel
from vlmgym_envs.games._tiles import TileSet
from vlmgym_envs.level import choice, knob
from vlmgym_envs.shapes import ARTS, COLORS, SHAPES, tile_atlas


@dataclass(frozen=True, slots=True)
class ShisenShoLevel(ShisenLevel):
    """Perception: colors, shapes, art and the knobs of `BoardLevel`. Reasoning: rows, cols, copies, turns, solvable.

    copies: tiles of each kind that is dealt. turns: the largest number of turns of a path. art: how a tile is drawn.
    """

    colors: int = knob(6, 1, len(COLORS))
    shapes: int = knob(6, 1, len(SHAPES))
    art: str = choice("plain", ARTS)

    def check(self) -> None:
        ShisenLevel.check(self)
        if self.num_kinds_dealt > self.colors * self.shapes:
            raise ValueError(
                f"colors * shapes must be at least rows * cols / copies = {self.num_kinds_dealt}, "
                f"got {self.colors} * {self.shapes}"
            )


class ShisenSho(ShisenGame[ShisenShoLevel]):
    """The table of this module says what each method of `ShisenGame` works with.

    levels: `paper` fills 728 x 728 pixels, about the area of the paper's 640 x 840, with tiles of four 28 px patches.
    """

    level_class = ShisenShoLevel
    levels: ClassVar[Mapping[str, ShisenShoLevel]] = {
        "tiny": ShisenShoLevel(rows=3, cols=4, colors=2, shapes=2, tile_px=16, border_px=0),
        "small": ShisenShoLevel(rows=4, cols=4, colors=3, shapes=3),
        "paper": ShisenShoLevel(),
        "straight": ShisenShoLevel(turns=0),
        "noisy": ShisenShoLevel(art="striped", jitter=8, noise=24, distractors=12),
        "large": ShisenShoLevel(rows=12, cols=12, tile_px=56),
        "hard": ShisenShoLevel(
            rows=12, cols=12, colors=8, shapes=8, art="dark", tile_px=56, jitter=8, noise=24, distractors=24
        ),
    }

    def __init__(self, level: ShisenShoLevel, level_name: str = "custom") -> None:
        super().__init__(level, level_name, TileSet(level.colors, level.shapes), _painter(level))

    @property
    def _equality(self) -> str:
        return "of the same color and shape"

    @property
    def _kind_lines(self) -> tuple[str, ...]:
        return (
            f"Colors: {', '.join(list(COLORS)[: self.level.colors])}.",
            f"Shapes: {', '.join(SHAPES[: self.level.shapes])}.",
        )


@lru_cache(maxsize=16)
def _painter(level: ShisenShoLevel) -> BoardPainter:
    """One for all games of a level: what it keeps can take some 10 MB."""
    atlas = tile_atlas(level.colors, level.shapes, level.tile_px, level.art)
    return BoardPainter(level.rows, level.cols, atlas, level)
