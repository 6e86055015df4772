"""How learners keep tensors in a folder: each writes its own shards, and any number of learners can read them.

The folder is one of `torch.distributed.checkpoint`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow.fs as pafs
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vlmgym.storage import Storage

_ALONE = "torch.distributed is disabled"
"""How torch warns of what is asked for here: to write or read alone."""


def write_shards(tensors: Mapping[str, torch.Tensor], folder: Storage, group: dist.ProcessGroup | None) -> None:
    """Writes tensors by name; those that are whole on several learners are written once.

    group: of the learners that write together, on CPUs; all have the same names. None: this one writes alone. When it
    returns on the first of them, all have written. Errors: RuntimeError on all of them for what fails on any.
    """
    writer = FileSystemWriter(folder.path, sync_files=isinstance(folder.filesystem, pafs.LocalFileSystem))
    writer.fs, writer.path = _Files(folder.filesystem), folder.path  # type: ignore[assignment]
    with _failures_raised():
        save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)


def read_shards(tensors: Mapping[str, torch.Tensor], folder: Storage) -> None:
    """Fills tensors, whole or sharded in any way, with what the folder holds under their names.

    Learners need not read together. Errors: RuntimeError where a name is missing, has another shape, or is not read.
    """
    with _failures_raised():
        load(dict(tensors), storage_reader=_reader(folder), no_dist=True)


def kept_tensors(folder: Storage) -> dict[str, TensorStorageMetadata]:
    """Size and dtype of what a folder holds, by name."""
    found = _reader(folder).read_metadata().state_dict_metadata
    return {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}


def _reader(folder: Storage) -> FileSystemReader:
    reader = FileSystemReader(folder.path)
    reader.fs, reader.path = _Files(folder.filesystem), folder.path  # type: ignore[assignment]
    return reader


@contextmanager
def _failures_raised() -> Iterator[None]:
    """torch's own exception is no `Exception`, and what is none ends a learner's process."""
    warnings.filterwarnings("ignore", _ALONE)
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise RuntimeError(f"a checkpoint failed on learner {rank}: {type(cause).__name__}: {cause}") from cause


class _Files(FileSystemBase):
    """Arrow's filesystems, which reach what fsspec does, as torch wants them."""

    def __init__(self, filesystem: pafs.FileSystem) -> None:
        self._filesystem = filesystem

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        open_file = self._filesystem.open_input_file if mode == "rb" else self._filesystem.open_output_stream
        with open_file(path) as stream:
            yield stream

    def concat_path(self, path: Any, suffix: str) -> str:
        return f"{path}/{suffix}"

    def rename(self, path: Any, new_path: Any) -> None:
        self._filesystem.move(path, new_path)

    def init_path(self, path: Any) -> str:
        return str(path)

    def mkdir(self, path: Any) -> None:
        self._filesystem.create_dir(path, recursive=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def exists(self, path: Any) -> bool:
        return bool(self._filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def rm_file(self, path: Any) -> None:
        self._filesystem.delete_file(path)
