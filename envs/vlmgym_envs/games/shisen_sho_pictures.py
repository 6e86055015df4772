"""Shisen-Sho with pictures: removes pairs of tiles whose pictures show the same class and that a path connects.

| State  | board, bytes [rows * cols]: 0 empty, else 1 + number of the class; num_moves, pairs removed so far |
| Action | ((row1, col1), (row2, col2)), counted from (0, 0) at the top left; the order of the two does not matter |
| Reward | 1.0 for a removed pair, so a game's sum is the number of pairs removed |
| Ends   | when no legal action is left: info["cleared"] says whether the board is empty or the player is stuck |
| Solver | first move of an order that clears the board, or of the longest one found within the bounds of _clearing.py |
| Source | arXiv 2505.13426 (G1, VLM-Gym): 6 x 6 cells, tiles are pictures of CIFAR-10, four tiles of a class |

Which picture of its class a tile shows follows from its cell. So a tile keeps its picture while others go, and a board
text stands for one picture of the board.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.draw import BoardPainter
from vlmgym_envs.games._shisen import ShisenGame, ShisenLevel
from vlmgym_envs.games._tiles import PictureTiles
from vlmgym_envs.level import choice, directory, knob
from vlmgym_envs.pictures import EMBEDDED, load_pictures, picture_atlas


@dataclass(frozen=True, slots=True)
class ShisenShoPicturesLevel(ShisenLevel):
    """Perception: pictures, picture_split, picture_seed, pictures_per_class, classes and the knobs of `BoardLevel`.

    Reasoning: rows, cols, copies, turns, solvable.
    copies: tiles of each class that is dealt. turns: the largest number of turns of a path.
    pictures: "embedded" or a directory, see pictures.py. picture_split: "test" shows pictures that "train" never does.
    picture_seed: which pictures of a class are used, and in which cells. pictures_per_class: how many at most; those
    beyond rows * cols are never shown. classes: how many classes are used, the first ones of the set.
    """

    pictures: str = directory(EMBEDDED)
    picture_split: Literal["train", "test"] = choice("train", ("train", "test"))
    picture_seed: int = knob(0, 0, 2**31 - 1)
    pictures_per_class: int = knob(36, 1, 256)
    classes: int = knob(10, 1, 100)

    def check(self) -> None:
        ShisenLevel.check(self)
        if self.num_kinds_dealt > self.classes:
            raise ValueError(
                f"classes must be at least rows * cols / copies = {self.num_kinds_dealt}, got {self.classes}"
            )


class ShisenShoPictures(ShisenGame[ShisenShoPicturesLevel]):
    """The table of this module says what each method of `ShisenGame` works with."""

    level_class = ShisenShoPicturesLevel
    levels: ClassVar[Mapping[str, ShisenShoPicturesLevel]] = {
        "tiny": ShisenShoPicturesLevel(rows=3, cols=4, classes=4, pictures_per_class=4, tile_px=32, border_px=0),
        "small": ShisenShoPicturesLevel(rows=4, cols=4, classes=6, pictures_per_class=12),
        "paper": ShisenShoPicturesLevel(),
        "straight": ShisenShoPicturesLevel(turns=0),
        "noisy": ShisenShoPicturesLevel(jitter=8, noise=24, distractors=12),
        "large": ShisenShoPicturesLevel(rows=12, cols=12, copies=16, tile_px=56),
        "hard": ShisenShoPicturesLevel(rows=12, cols=12, copies=16, tile_px=56, jitter=8, noise=24, distractors=24),
    }

    def __init__(self, level: ShisenShoPicturesLevel, level_name: str = "custom") -> None:
        self._look = _look(level)
        self._cell_numbers = np.arange(level.rows * level.cols).reshape(level.rows, level.cols)
        super().__init__(level, level_name, PictureTiles(self._look.class_names), self._look.painter)

    @property
    def _equality(self) -> str:
        return "that show the same class, also in different pictures, and"

    @property
    def _kind_lines(self) -> tuple[str, ...]:
        return (f"Each tile is a picture of one of these classes: {', '.join(self._look.class_names)}.",)

    def _sprites(self, board: NDArray[np.uint8]) -> NDArray[np.integer]:
        return np.asarray(self._look.sprites[board, self._cell_numbers])


class _Look(NamedTuple):
    """sprites: [1 + classes, rows * cols], which sprite of the painter a tile of each kind is in each cell."""

    class_names: tuple[str, ...]
    painter: BoardPainter
    sprites: NDArray[np.intp]


@lru_cache(maxsize=8)
def _look(level: ShisenShoPicturesLevel) -> _Look:
    """One for all games of a level: it takes 14 MB at `paper`, and eight times as much more with jitter."""
    num_cells = level.rows * level.cols
    found = load_pictures(
        level.pictures,
        level.picture_split,
        level.classes,
        min(level.pictures_per_class, num_cells),
        level.picture_seed,
    )
    sprites = np.zeros((1 + level.classes, num_cells), dtype=np.intp)
    first = 1
    for number, pictures in enumerate(found.pictures):
        # Every picture is in as many cells as any other, or in one more, so equal ones seldom meet on a board.
        places = np.random.default_rng([level.picture_seed, number, 1]).permutation(num_cells)
        sprites[1 + number] = first + places % len(pictures)
        first += len(pictures)
    atlas = picture_atlas(list(chain(*found.pictures)), level.tile_px)
    return _Look(found.class_names, BoardPainter(level.rows, level.cols, atlas, level), sprites)
