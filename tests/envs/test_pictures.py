from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmgym_envs.data import CLASS_NAMES, NUM_PICTURES, SHEET
from vlmgym_envs.data.make_pictures import MODELS, picture
from vlmgym_envs.draw import GRID, WHITE
from vlmgym_envs.pictures import Picture, PictureSet, load_pictures, picture_atlas


def load(
    source: Path | str, split: str = "train", num_classes: int = 2, per_class: int = 99, seed: int = 0
) -> PictureSet:
    return load_pictures(str(source), split, num_classes, per_class, seed)  # type: ignore[arg-type]


def grey(level: int, width: int = 8, height: int = 8) -> Image.Image:
    return Image.new("RGB", (width, height), (level, level, level))


def levels(pictures: tuple[Picture, ...]) -> list[int]:
    """The grey levels of one-colored pictures, sorted."""
    return sorted(int(picture[0, 0, 0]) for picture in pictures)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train/cat and train/dog with levels 10, 20, 30 and 110, 120, 130; test/* with 40 and 140."""
    for split, steps in (("train", (10, 20, 30)), ("test", (40,))):
        for name, start in (("dog", 100), ("cat", 0)):
            (tmp_path / split / name).mkdir(parents=True)
            for step in steps:
                grey(start + step).save(tmp_path / split / name / f"{step}.png")
    return tmp_path


def test_folders_with_splits(folders: Path) -> None:
    train, test = load(folders), load(folders, "test")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert [levels(pictures) for pictures in train.pictures] == [[10, 20, 30], [110, 120, 130]]
    assert [levels(pictures) for pictures in test.pictures] == [[40], [140]]


def test_in_folders_without_splits_every_sixth_picture_is_for_tests(tmp_path: Path) -> None:
    (tmp_path / "fire truck").mkdir()
    (tmp_path / ".cache").mkdir()
    for number in range(13):
        grey(10 * number).save(tmp_path / "fire truck" / f"{number:02}.png")
    (tmp_path / "fire truck" / "notes.txt").write_text("no picture")
    train, test = load(tmp_path, "train", 1), load(tmp_path, "test", 1)
    assert train.class_names == ("fire truck",)
    assert levels(test.pictures[0]) == [50, 110]
    assert levels(train.pictures[0]) == [0, 10, 20, 30, 40, 60, 70, 80, 90, 100, 120]


def test_of_a_file_the_middle_square_is_shown(tmp_path: Path) -> None:
    """20 x 10 pixels: 5 black columns, 10 white ones, 5 black ones."""
    (tmp_path / "cat").mkdir()
    wide = grey(0, 20, 10)
    wide.paste((255, 255, 255), (5, 0, 15, 10))
    wide.save(tmp_path / "cat" / "0.png")
    grey(7, 600, 300).convert("L").save(tmp_path / "cat" / "1.jpeg")
    small, large = sorted(load(tmp_path, num_classes=1).pictures[0], key=len)
    assert small.shape == (10, 10, 3) and (small == 255).all()
    assert large.shape == (128, 128, 3) and not large.flags.writeable


def test_a_bounded_sample_follows_from_the_seed(folders: Path) -> None:
    one = [load(folders, per_class=2, seed=seed).pictures[0] for seed in range(12)]
    assert {len(pictures) for pictures in one} == {2}
    drawn = {tuple(int(picture[0, 0, 0]) for picture in pictures) for pictures in one}
    # Two of three pictures in some order: six possibilities.
    assert len(drawn) >= 4 and all(first != second for first, second in drawn)
    load_pictures.cache_clear()
    again = load(folders, per_class=2, seed=3).pictures[0]
    assert all(np.array_equal(a, b) for a, b in zip(again, one[3], strict=True))


def test_faults_of_folders_are_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classes must be at most 2, the number of classes in .*, got 3"):
        load(folders, num_classes=3)
    with pytest.raises(ValueError, match="pictures must be 'embedded' or a directory, there is no directory /no/where"):
        load("/no/where")
    (folders / "test" / "dog" / "40.png").unlink()
    with pytest.raises(ValueError, match="class 'dog' has no test picture in"):
        load(folders, "test")
    (folders / "train" / "cat" / "20.png").write_bytes((folders / "train" / "cat" / "10.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"train/cat/20\.png is no picture that can be read"):
        load(folders, seed=1)
    (folders / "test" / "cat" / "40.png").unlink()
    for empty in ("cat", "dog"):
        (folders / "test" / empty).rmdir()
    (folders / "test").rmdir()
    with pytest.raises(ValueError, match=r"there is no directory .*/test"):
        load(folders, "test", seed=2)


def test_a_directory_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds neither the files of CIFAR-10 nor a folder for each class"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["-", "a|b", " cat", "kätzchen"])
def test_a_name_that_no_board_text_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    grey(1).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match="a class must have a name in printable ASCII"):
        load(tmp_path, num_classes=1)


def test_cifar_files_are_sorted_by_class(tmp_path: Path) -> None:
    """Five equal batches, each with one picture of class 1 and two of class 0."""
    record = b"".join(bytes([label]) + bytes([level]) * 3072 for label, level in ((1, 200), (0, 50), (0, 60)))
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(record)
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    found = load(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert [levels(pictures) for pictures in found.pictures] == [[50] * 5 + [60] * 5, [200] * 5]


def test_the_embedded_set_has_its_classes_and_no_picture_twice() -> None:
    train, test = load("embedded", "train", 10), load("embedded", "test", 10)
    assert train.class_names == test.class_names == CLASS_NAMES and len(MODELS) == 10
    assert {len(pictures) for pictures in train.pictures} == {NUM_PICTURES["train"]} == {36}
    assert {len(pictures) for pictures in test.pictures} == {NUM_PICTURES["test"]} == {12}
    every = [picture.tobytes() for found in (train, test) for pictures in found.pictures for picture in pictures]
    assert len(set(every)) == 480
    assert SHEET.stat().st_size < 400_000


def test_the_embedded_pictures_are_those_that_the_program_draws() -> None:
    """But for what JPEG and other versions of numpy and Pillow change."""
    sheet = np.asarray(Image.open(SHEET).convert("RGB"), dtype=float)
    for number, index in ((3, 0), (8, 47)):
        embedded = sheet[32 * number : 32 * (number + 1), 32 * index : 32 * (index + 1)]
        assert np.abs(embedded - picture(number, index)).mean() < 6


def test_colors_do_not_tell_the_embedded_classes() -> None:
    """The class with the nearest mean color is right for about one of ten test pictures; guessing gives one of ten."""
    train, test = load("embedded", "train", 10), load("embedded", "test", 10)
    means = np.array([np.mean(pictures, axis=(0, 1, 2)) for pictures in train.pictures])
    colors = np.array([[picture.mean(axis=(0, 1)) for picture in pictures] for pictures in test.pictures])
    nearest = np.linalg.norm(colors[:, :, None] - means, axis=-1).argmin(axis=-1)
    assert (nearest == np.arange(10)[:, None]).mean() < 0.25


def test_form_tells_the_embedded_classes() -> None:
    """A linear classifier learns them from 36 pictures each, given 8 edge directions in each of 8 x 8 parts."""

    def edges(picture: Picture) -> np.ndarray:
        down, right = np.gradient(picture.mean(axis=-1))
        direction = ((np.arctan2(down, right) % np.pi) / np.pi * 8).astype(int) % 8
        strength = np.hypot(down, right)[..., None] * (direction[..., None] == np.arange(8))
        parts = np.sqrt(strength.reshape(8, 4, 8, 4, 8).sum(axis=(1, 3)).ravel())
        return np.asarray(parts / np.linalg.norm(parts))

    train, test = load("embedded", "train", 10), load("embedded", "test", 10)
    seen = np.array([[edges(picture) for picture in pictures] for pictures in train.pictures]).reshape(360, -1)
    unseen = np.array([[edges(picture) for picture in pictures] for pictures in test.pictures]).reshape(120, -1)
    targets = np.eye(10).repeat(36, axis=0) - 0.1
    weights = seen.T @ np.linalg.solve(seen @ seen.T + 0.1 * np.eye(360), targets)
    assert ((unseen @ weights).argmax(axis=1) == np.arange(10).repeat(12)).mean() > 0.75


def test_an_atlas_scales_pictures_into_cells() -> None:
    """Cells of 32 px with a margin of 2 px, grid line included."""
    halves = np.zeros((4, 4, 3), dtype=np.uint8)
    halves[:, 2:] = 200
    atlas = picture_atlas([np.full((8, 8, 3), 60, dtype=np.uint8), halves], 32)
    assert atlas.shape == (3, 32, 32, 3) and not atlas.flags.writeable
    assert (atlas[:, 0] == GRID).all() and (atlas[:, 1, 1:-1] == WHITE).all()
    assert (atlas[1, 2:-2, 2:-2] == 60).all()
    assert (atlas[2, 2:-2, 2:6] == 0).all() and (atlas[2, 2:-2, 26:-2] == 200).all()
    assert picture_atlas([halves], 8).shape == (2, 8, 8, 3)
