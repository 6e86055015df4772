"""Decides which pictures a level shows: the classes and pictures of a set, sampled, and the sprites made of them.

A set is the embedded one (vlmgym_envs.data) or a directory in one of three forms:

- CIFAR-10 as published for Python: data_batch_1 .. data_batch_5, test_batch, batches.meta;
- CIFAR-10 as published in binary: data_batch_1.bin .. data_batch_5.bin, test_batch.bin, batches.meta.txt;
- PNG or JPEG files in folders: train/<class>/ and test/<class>/, or <class>/ alone.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vlmgym_envs import cifar
from vlmgym_envs.data import CLASS_NAMES, NUM_PICTURES, SHEET, SIDE_PX
from vlmgym_envs.draw import empty_cell

EMBEDDED = "embedded"
MAX_SIDE_PX = 128
"""Pictures from files are kept no larger than the largest tile."""
TEST_SHARE = 6
"""In folders without train and test, every so-many-th file by name is a test picture: the share that CIFAR-10 has."""
FILE_ENDINGS = (".png", ".jpg", ".jpeg")

Split = Literal["train", "test"]
Picture = NDArray[np.uint8]
"""[side, side, 3]"""


class PictureSet(NamedTuple):
    """pictures: those of each class, in the order of class_names; one class may have more than another."""

    class_names: tuple[str, ...]
    pictures: tuple[tuple[Picture, ...], ...]


@lru_cache(maxsize=4)
def load_pictures(source: str, split: Split, num_classes: int, per_class: int, seed: int) -> PictureSet:
    """The first `num_classes` classes of a set, and of each at most `per_class` pictures of the split.

    source: "embedded" or a directory. seed: decides which pictures, and their order: uniform without repetition.
    Errors: ValueError for a directory or a file that is missing, damaged or of another form, for fewer classes than
    asked for, for a class without pictures and for a class name that a board text cannot hold.
    """
    names, found = _open(source, split)
    if len(names) < num_classes:
        raise ValueError(f"classes must be at most {len(names)}, the number of classes in {source}, got {num_classes}")
    chosen = []
    for number, name in enumerate(names[:num_classes]):
        _check_name(name, source)
        pictures = found[number]
        if not pictures:
            raise ValueError(f"class {name!r} has no {split} picture in {source}")
        rng = np.random.default_rng([seed, number])
        order = rng.choice(len(pictures), size=min(per_class, len(pictures)), replace=False).tolist()
        chosen.append(tuple(_loaded(pictures[index]) for index in order))
    return PictureSet(tuple(names[:num_classes]), tuple(chosen))


def picture_atlas(pictures: Sequence[Picture], tile_px: int) -> NDArray[np.uint8]:
    """The sprites of all pictures, uint8 [1 + number, tile_px, tile_px, 3], read-only; index 0 is the empty cell.

    A picture fills its cell but for a white margin and the grid line.
    """
    empty = empty_cell(tile_px)
    margin_px = max(1, tile_px // 16)
    side_px = tile_px - 2 * margin_px
    atlas = np.repeat(empty[None], 1 + len(pictures), axis=0)
    for sprite, picture in zip(atlas[1:], pictures, strict=True):
        scaled = Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.BICUBIC)
        sprite[margin_px : margin_px + side_px, margin_px : margin_px + side_px] = np.asarray(scaled)
    atlas.flags.writeable = False
    return atlas


def _open(source: str, split: Split) -> tuple[Sequence[str], Sequence[Sequence[Picture | Path]]]:
    """The names of all classes, and the pictures of each in the split; files are not read yet."""
    if source == EMBEDDED:
        return CLASS_NAMES, _embedded(split)
    root = Path(source).expanduser()
    if not root.is_dir():
        raise ValueError(f"pictures must be {EMBEDDED!r} or a directory, there is no directory {source}")
    form = cifar.form_of(root)
    if form is not None:
        names, batches = cifar.read(root, form, split)
        return names, [
            [images[index] for labels, images in batches for index in np.flatnonzero(labels == label)]
            for label in range(len(names))
        ]
    return _folders(root, split)


def _embedded(split: Split) -> list[list[Picture]]:
    per_class = sum(NUM_PICTURES.values())
    with Image.open(SHEET) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    tiles = pixels.reshape(len(CLASS_NAMES), SIDE_PX, per_class, SIDE_PX, 3).swapaxes(1, 2)
    num_train = NUM_PICTURES["train"]
    return [list(row[:num_train] if split == "train" else row[num_train:]) for row in tiles]


def _folders(root: Path, split: Split) -> tuple[list[str], list[list[Path]]]:
    """The classes are the folders of train, or of the root where that has neither train nor test."""
    has_splits = (root / "train").is_dir() or (root / "test").is_dir()
    for name in ("train", "test") if has_splits else ():
        if not (root / name).is_dir():
            raise ValueError(f"there is no directory {root / name}")
    classes = sorted(
        entry.name
        for entry in (root / "train" if has_splits else root).iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not classes:
        raise ValueError(f"{root} holds neither the files of CIFAR-10 nor a folder for each class")
    if has_splits:
        return classes, [_files(root / split / name) for name in classes]
    return classes, [_share(_files(root / name), split) for name in classes]


def _files(folder: Path) -> list[Path]:
    """The pictures in a folder by name; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in FILE_ENDINGS)


def _share(paths: list[Path], split: Split) -> list[Path]:
    is_test = [number % TEST_SHARE == TEST_SHARE - 1 for number in range(len(paths))]
    return [path for path, test in zip(paths, is_test, strict=True) if test == (split == "test")]


def _loaded(picture: Picture | Path) -> Picture:
    """An array of its own, read-only; of a file, the middle square."""
    if isinstance(picture, Path):
        try:
            with Image.open(picture) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{picture} is no picture that can be read: {error}") from error
        side_px = min(*image.size, MAX_SIDE_PX)
        picture = np.asarray(ImageOps.fit(image, (side_px, side_px)))
    kept = np.array(picture)
    kept.flags.writeable = False
    return kept


def _check_name(name: str, source: str) -> None:
    if name == "-" or name != name.strip() or not (name.isascii() and name.isprintable()) or "|" in name:
        raise ValueError(
            f"a class must have a name in printable ASCII without '|', other than '-', got {name!r} in {source}"
        )
