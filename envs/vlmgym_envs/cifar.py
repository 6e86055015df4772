"""Decides how the files of CIFAR-10 are read: as published for Python, and in their binary version.

Source: https://www.cs.toronto.edu/~kriz/cifar.html describes both. A picture is 1024 red, 1024 green and 1024 blue
values, row by row.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Form = Literal["python", "binary"]

SIDE_PX = 32
PICTURE_BYTES = 3 * SIDE_PX * SIDE_PX
RECORD_BYTES = 1 + PICTURE_BYTES
FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
META = {"python": "batches.meta", "binary": "batches.meta.txt"}


class Batch(NamedTuple):
    """labels: [n], numbers of classes. images: uint8 [n, 32, 32, 3]."""

    labels: NDArray[np.integer[Any]]
    images: NDArray[np.uint8]


def form_of(directory: Path) -> Form | None:
    """The form of CIFAR-10 that a directory holds, None where it holds none."""
    if (directory / "data_batch_1").is_file() or (directory / META["python"]).is_file():
        return "python"
    if (directory / "data_batch_1.bin").is_file() or (directory / META["binary"]).is_file():
        return "binary"
    return None


def read(directory: Path, form: Form, split: Literal["train", "test"]) -> tuple[list[str], list[Batch]]:
    """The names of the classes and all batches of a split: data_batch_1 .. data_batch_5 or test_batch.

    Errors: ValueError for a file that is missing, truncated or damaged.
    """
    names = _read_names(directory, form)
    suffix, read_batch = (".bin", _read_binary) if form == "binary" else ("", _read_python)
    batches = []
    for file in FILES[split]:
        path = _existing(directory / (file + suffix))
        batch = read_batch(path)
        if len(batch.labels) and not 0 <= batch.labels.min() <= batch.labels.max() < len(names):
            raise ValueError(f"{path} has a label outside 0..{len(names) - 1}")
        batches.append(batch)
    return names, batches


def _read_names(directory: Path, form: Form) -> list[str]:
    path = _existing(directory / META[form])
    if form == "binary":
        names = path.read_text("utf-8", errors="replace").split()
    else:
        names = [_text(name) for name in _field(_unpickled(path), "label_names", list, path)]
    if not names:
        raise ValueError(f"{path} names no class")
    return names


def _read_binary(path: Path) -> Batch:
    """Records of one label byte and a picture."""
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if not len(content) or len(content) % RECORD_BYTES:
        raise ValueError(f"{path} is truncated: {len(content)} bytes are no multiple of {RECORD_BYTES}")
    records = content.reshape(-1, RECORD_BYTES)
    return Batch(records[:, 0], _images(records[:, 1:]))


def _read_python(path: Path) -> Batch:
    """A pickled dictionary with b"labels", a list, and b"data", an array uint8 [n, 3072]."""
    record = _unpickled(path)
    labels = _field(record, "labels", list, path)
    pixels = _pixels(_field(record, "data", _Described, path), path)
    if not all(type(label) is int for label in labels) or len(labels) != len(pixels):
        raise ValueError(f"{path} must have a whole number as label for each of its {len(pixels)} pictures")
    return Batch(np.array(labels), _images(pixels))


def _images(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view: [n, 3072] as [n, 32, 32, 3]."""
    return pixels.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)


class _Described:
    """Stands in for whatever of numpy a file mentions: keeps what the file says about it and does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Calls nothing but `_Described`: a file from elsewhere could otherwise run any code."""

    known = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return _Described


def _unpickled(path: Path) -> Mapping[Any, Any]:
    try:
        with path.open("rb") as file:
            record = _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # A damaged pickle can raise anything.
        raise ValueError(f"{path} is no readable file of CIFAR-10: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(record).__name__}")
    return record


def _field(record: Mapping[Any, Any], name: str, kind: type, path: Path) -> Any:
    value = record.get(name.encode())
    if not isinstance(value, kind):
        raise ValueError(f"{path} has no {name}")
    return value


def _pixels(array: _Described, path: Path) -> NDArray[np.uint8]:
    """[n, 3072], from what the file says of an array: version, shape, type, whether column by column, content."""
    try:
        _, (num_pictures, num_values), dtype, by_columns, content = array.state
        right = dtype.args[0] in (b"u1", "u1") and not by_columns and num_values == PICTURE_BYTES
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} has no array as data") from error
    if not right:
        raise ValueError(f"data of {path} must be bytes, {PICTURE_BYTES} for each picture, row by row")
    if not isinstance(content, bytes) or len(content) != num_pictures * num_values:
        raise ValueError(f"{path} is truncated: its data must have {num_pictures} * {num_values} bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(num_pictures, num_values)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _text(name: object) -> str:
    return name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name)
