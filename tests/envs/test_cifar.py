import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmgym_envs import cifar

NAMES = ["cat", "dog", "ship"]
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def image(red: int, green: int, blue: int) -> np.ndarray:
    """[32, 32, 3] of one color but for the pixel at row 1, col 2, which is black."""
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:] = red, green, blue
    picture[1, 2] = 0
    return picture


IMAGES = [image(200, 100, 50), image(10, 20, 30)]


def planes(picture: np.ndarray) -> bytes:
    """As the files hold it: all red values, then all green, then all blue ones, row by row."""
    return picture.transpose(2, 0, 1).tobytes()


def text(value: bytes) -> bytes:
    """A byte string as Python 2 pickled it."""
    return b"U" + bytes([len(value)]) + value


def published_batch(labels: Sequence[int], images: Sequence[np.ndarray]) -> bytes:
    """A batch, opcode by opcode as in the published files: protocol 2, written by Python 2 with an old numpy."""
    content = b"".join(map(planes, images))
    items = [
        text(b"batch_label") + text(b"training batch 1 of 5"),
        text(b"labels") + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
        text(b"data")
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        + b"(K\x01K" + bytes([len(images)]) + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        + b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + len(content).to_bytes(4, "little") + content + b"tb",
    ]  # fmt: skip
    return b"\x80\x02}(" + b"".join(items) + b"u."


def python_batch(labels: Sequence[int], images: Sequence[np.ndarray], **changes: Any) -> bytes:
    """The same, as today's Python and numpy write it."""
    data = np.frombuffer(b"".join(map(planes, images)), dtype=np.uint8).reshape(len(images), 3072)
    record = {b"labels": list(labels), b"data": data}
    return pickle.dumps({**record, **{key.encode(): value for key, value in changes.items()}}, protocol=4)


def binary_batch(labels: Sequence[int], images: Sequence[np.ndarray]) -> bytes:
    return b"".join(bytes([label]) + planes(picture) for label, picture in zip(labels, images, strict=True))


WRITERS = {"published": ("", published_batch), "python": ("", python_batch), "binary": (".bin", binary_batch)}


def write_set(directory: Path, form: str, train: bytes | None = None) -> Path:
    """A whole set of NAMES with the pictures IMAGES, labels 2 and 0, in each file; `train` replaces data_batch_1."""
    suffix, writer = WRITERS[form]
    for file in (*TRAIN, "test_batch"):
        (directory / (file + suffix)).write_bytes(writer([2, 0], IMAGES))
    if train is not None:
        (directory / (TRAIN[0] + suffix)).write_bytes(train)
    if form == "binary":
        (directory / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    else:
        names = pickle.dumps({b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}, protocol=4)
        (directory / "batches.meta").write_bytes(names if form == "python" else META)
    return directory


META = b"\x80\x02}(" + text(b"label_names") + b"](" + b"".join(text(name.encode()) for name in NAMES) + b"eu."


def form_of(directory: Path) -> cifar.Form:
    form = cifar.form_of(directory)
    assert form is not None
    return form


@pytest.mark.parametrize("form", WRITERS)
def test_a_set_is_read_in_each_form(tmp_path: Path, form: str) -> None:
    write_set(tmp_path, form)
    for split, num_batches in (("train", 5), ("test", 1)):
        names, batches = cifar.read(tmp_path, form_of(tmp_path), split)
        assert names == NAMES and len(batches) == num_batches
        for labels, images in batches:
            assert labels.tolist() == [2, 0]
            assert np.array_equal(images, IMAGES)


def test_other_directories_have_no_form(tmp_path: Path) -> None:
    assert cifar.form_of(tmp_path) is None
    (tmp_path / "cat").mkdir()
    assert cifar.form_of(tmp_path) is None


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was_here",)

    write_set(tmp_path, "python", python_batch([0], IMAGES[:1], filenames=[Evil()]))
    with pytest.raises(ValueError, match=r"data_batch_1 is no readable file of CIFAR-10: .*has no place in it"):
        cifar.read(tmp_path, "python", "train")
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("binary", binary_batch([1, 1], IMAGES)[:-1], "truncated: 6145 bytes are no multiple of 3073"),
        ("binary", b"", "truncated: 0 bytes"),
        ("binary", binary_batch([0, 3], IMAGES), r"label outside 0\.\.2"),
        ("python", python_batch([1, 1], IMAGES)[:-500], "is no readable file of CIFAR-10"),
        ("published", published_batch([1, 1], IMAGES)[:-500], "is no readable file of CIFAR-10"),
        ("python", b"", "is no readable file of CIFAR-10"),
        ("python", b"\x89PNG", "is no readable file of CIFAR-10"),
        ("python", pickle.dumps([1, 2]), "must hold a dictionary, got list"),
        ("python", pickle.dumps({b"data": 1}), "has no labels"),
        ("python", pickle.dumps({b"labels": [1]}), "has no data"),
        ("python", python_batch([1], IMAGES), "a whole number as label for each of its 2 pictures"),
        ("python", python_batch(["1", "2"], IMAGES), "a whole number as label for each of its 2 pictures"),  # type: ignore[list-item]
        ("python", python_batch([0, -1], IMAGES), r"label outside 0\.\.2"),
        ("python", python_batch([], [], data=np.zeros((2, 12), dtype=np.uint8)), "3072 for each picture"),
        ("python", python_batch([], [], data=np.zeros((2, 3072), dtype=np.int64)), "must be bytes"),
        ("python", python_batch([], [], data=np.zeros(3072, dtype=np.uint8)), "has no array as data"),
    ],
)
def test_a_damaged_batch_is_refused_with_its_fault(tmp_path: Path, form: str, content: bytes, message: str) -> None:
    write_set(tmp_path, form, content)
    with pytest.raises(ValueError, match=f"data_batch_1.*{message}|data of .*data_batch_1.*{message}"):
        cifar.read(tmp_path, form_of(tmp_path), "train")
    assert len(cifar.read(tmp_path, form_of(tmp_path), "test")[1]) == 1


def test_an_array_that_says_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    content = published_batch([1, 1], IMAGES)
    # The length of the shape says 3 pictures, the content has 2.
    write_set(tmp_path, "published", content.replace(b"(K\x01K\x02M", b"(K\x01K\x03M"))
    with pytest.raises(ValueError, match=r"data_batch_1 is truncated: its data must have 3 \* 3072 bytes"):
        cifar.read(tmp_path, "python", "train")


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("binary", "data_batch_4.bin"),
        ("binary", "batches.meta.txt"),
        ("python", "data_batch_2"),
        ("python", "batches.meta"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, form: str, file: str) -> None:
    write_set(tmp_path, form)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=f"there is no file .*/{file}$"):
        cifar.read(tmp_path, form_of(tmp_path), "train")


def test_a_list_without_names_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, "binary")
    (tmp_path / "batches.meta.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"batches\.meta\.txt names no class"):
        cifar.read(tmp_path, "binary", "test")
