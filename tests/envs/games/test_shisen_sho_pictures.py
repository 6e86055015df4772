from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmgym_envs import Game, level_ids, make_game
from vlmgym_envs.draw import GRID, WHITE
from vlmgym_envs.games._shisen import ShisenShoState
from vlmgym_envs.games.shisen_sho_pictures import ShisenShoPicturesLevel

AnyGame = Game[Any, Any, Any]

# The cats see each other through (0, 1), (0, 2); the deer of (0, 3) and (2, 0) do not. Tiles: airplane 1, automobile 2,
# bird 3, cat 4, deer 5.
TEXT = "\n".join(
    (
        " cat | - | - | deer ",
        " bird | airplane | cat | bird ",
        " deer | airplane | automobile | automobile ",
    )
)
LEFT, RIGHT = (0, 0), (1, 2)


@pytest.fixture(scope="module")
def game() -> AnyGame:
    return make_game("shisen_sho_pictures", "tiny", classes=5, pictures_per_class=12)


@pytest.fixture
def one_color(tmp_path: Path) -> Path:
    """Pictures of one color, (100 * class, 10 * number, 0): classes a, b and c with three, two and one of them."""
    for number, name in enumerate("abc"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        for index in range(3 - number):
            for split, blue in (("train", 0), ("test", 255)):
                color = (100 * number, 10 * index, blue)
                Image.new("RGB", (32, 32), color).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def cells(game: AnyGame, text: str) -> np.ndarray:
    """The drawing of each cell, [rows, cols, tile_px, tile_px, 3]; of levels without a border."""
    image, level = game.render(game.from_text(text)), game.level
    return image.reshape(level.rows, level.tile_px, level.cols, level.tile_px, 3).swapaxes(1, 2)


def filled(game: AnyGame, name: str) -> str:
    return "\n".join(["|".join([f" {name} "] * game.level.cols)] * game.level.rows)


def test_text_numbers_and_names(game: AnyGame) -> None:
    state = game.from_text(TEXT)
    assert state == ShisenShoState(bytes([4, 0, 0, 5, 3, 1, 4, 3, 5, 1, 2, 2]), num_moves=0)
    assert game.describe(state) == TEXT
    with pytest.raises(ValueError, match="row 1, col 0: 'dog' is no tile of this level"):
        game.from_text(TEXT.replace(" bird | airplane", " dog | airplane"))


def test_tiles_match_by_class_though_their_pictures_differ(game: AnyGame) -> None:
    drawn = cells(game, TEXT)
    assert not np.array_equal(drawn[LEFT], drawn[RIGHT])
    step = game.step(game.from_text(TEXT), (LEFT, RIGHT))
    assert (step.reward, step.refused, step.terminated) == (1.0, None, False)
    assert step.state.board == bytes([0, 0, 0, 5, 3, 1, 0, 3, 5, 1, 2, 2])
    assert game.explain(game.from_text(TEXT), (LEFT, RIGHT)) == " cat (0, 0) cat (1, 2)"


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (((0, 0), (0, 3)), "the tiles must be equal, got cat and deer"),
        (((0, 3), (2, 0)), "no path of at most two turns connects (0, 3) and (2, 0)"),
        (((0, 1), (0, 0)), "cell (0, 1) is empty"),
    ],
)
def test_the_rules_are_those_of_shisen_sho(game: AnyGame, action: Any, reason: str) -> None:
    assert game.step(game.from_text(TEXT), action).refused == reason


def test_a_tile_keeps_its_picture_while_others_go(game: AnyGame) -> None:
    before = cells(game, TEXT)
    after = cells(game, TEXT.replace("cat", "-"))
    changed = [(row, col) for row in range(3) for col in range(4) if (before[row, col] != after[row, col]).any()]
    assert changed == [LEFT, RIGHT]


@given(st.lists(st.integers(0, 4), min_size=12, max_size=12))
def test_a_board_text_stands_for_one_picture(tiles: list[int]) -> None:
    tiny = make_game("shisen_sho_pictures", "tiny")
    state = ShisenShoState(bytes(tiles), 5)
    again = tiny.from_text(tiny.describe(state))
    assert again == ShisenShoState(bytes(tiles), 0)
    assert np.array_equal(tiny.render(again), tiny.render(state))


def test_with_a_picture_for_each_cell_none_is_shown_twice(game: AnyGame) -> None:
    every = cells(game, filled(game, "cat")).reshape(12, -1)
    assert len({cell.tobytes() for cell in every}) == 12
    paper = make_game("shisen_sho_pictures", "paper", border_px=0, tile_px=16)
    every = cells(paper, filled(paper, "frog")).reshape(36, -1)
    assert len({cell.tobytes() for cell in every}) == 36


def test_fewer_pictures_are_shown_equally_often() -> None:
    tiny = make_game("shisen_sho_pictures", "tiny")
    counts = Counter(cell.tobytes() for cell in cells(tiny, filled(tiny, "bird")).reshape(12, -1))
    assert sorted(counts.values()) == [3, 3, 3, 3]


def test_the_seed_moves_pictures_and_the_split_shows_others(game: AnyGame) -> None:
    def shown(**knobs: object) -> list[bytes]:
        knobs = {"classes": 5, "pictures_per_class": 12, **knobs}
        other = make_game("shisen_sho_pictures", "tiny", **knobs)
        return [cell.tobytes() for cell in cells(other, filled(other, "deer")).reshape(12, -1)]

    first = shown()
    assert shown(picture_seed=0) == first
    assert shown(picture_seed=1) != first
    assert not set(shown(picture_split="test")) & {cell for seed in range(8) for cell in shown(picture_seed=seed)}


def test_a_directory_of_the_user_is_shown(one_color: Path) -> None:
    knobs = {"pictures": str(one_color), "classes": 3}
    train = make_game("shisen_sho_pictures", "tiny", **knobs)
    assert "classes: a, b, c." in train.prompt and 'A tile is written as " a "' in train.prompt
    # Cells of 32 px: one pixel of grid line, one of margin, 28 of the picture.
    drawn = cells(train, " a | b | c | - \n a | b | c | - \n a | b | c | - ")
    assert (drawn[:, :, 0] == GRID).all() and (drawn[:, :, 1, 1:-1] == WHITE).all()
    inner = drawn[:, :, 2:-2, 2:-2].astype(int)
    assert (inner == inner[:, :, :1, :1]).all()
    colors = inner[:, :, 0, 0]
    assert colors[:, :3, 0].tolist() == [[0, 100, 200]] * 3
    assert set(colors[:, 0, 1].tolist()) <= {0, 10, 20} and set(colors[:, 1, 1].tolist()) <= {0, 10}
    assert (colors[:, 3] == WHITE).all() and (colors[:, :3, 2] == 0).all()
    test = make_game("shisen_sho_pictures", "tiny", picture_split="test", **knobs)
    assert (cells(test, filled(test, "b"))[:, :, 16, 16, 2] == 255).all()


def test_a_set_with_too_few_classes_is_refused(one_color: Path) -> None:
    with pytest.raises(ValueError, match="classes must be at most 3, the number of classes in"):
        make_game("shisen_sho_pictures", "tiny", pictures=str(one_color))


def test_the_prompt_names_classes_and_the_rule(game: AnyGame) -> None:
    lines = game.prompt.split("\n")
    assert (
        "A move removes two tiles that show the same class, also in different pictures, and that a path connects."
        in lines
    )
    assert "Each tile is a picture of one of these classes: airplane, automobile, bird, cat, deer." in lines
    assert 'A tile is written as " airplane ", an empty cell as " - ".' in lines


@pytest.mark.parametrize(("level", "num_seeds"), [("tiny", 30), ("straight", 5), ("paper", 5), ("large", 1)])
def test_the_solver_clears_every_solvable_deal(level: str, num_seeds: int) -> None:
    game = make_game("shisen_sho_pictures", level)
    for seed in range(num_seeds):
        state = game.init(seed)
        counts = Counter(state.board)
        assert set(counts.values()) == {game.level.copies} and len(counts) == game.level.num_kinds_dealt
        while (action := game.solve(state)) is not None:
            state = game.step(state, action).state
        assert not any(state.board)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"classes": 8}, "classes must be at least rows * cols / copies = 9, got 8"),
        ({"rows": 5, "cols": 5}, "rows * cols must be divisible by copies, got 5 * 5 and 4"),
        ({"pictures": ""}, "pictures must be 'embedded' or a directory, got ''"),
        ({"pictures": 3}, "pictures must be 'embedded' or a directory, got 3"),
        ({"picture_split": "all"}, "picture_split must be one of 'train', 'test', got 'all'"),
        ({"pictures_per_class": 0}, "pictures_per_class must be in 1..256, got 0"),
    ],
)
def test_impossible_levels_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        ShisenShoPicturesLevel(**knobs)
    assert str(error.value) == message


def test_named_levels_have_the_stated_boards() -> None:
    levels = make_game("shisen_sho_pictures", "paper").levels
    boards = {name: (level.rows, level.cols, level.num_kinds_dealt) for name, level in levels.items()}
    assert boards == {
        "tiny": (3, 4, 3),
        "small": (4, 4, 4),
        "paper": (6, 6, 9),
        "straight": (6, 6, 9),
        "noisy": (6, 6, 9),
        "large": (12, 12, 9),
        "hard": (12, 12, 9),
    }
    assert list(boards) == list(level_ids("shisen_sho_pictures"))
