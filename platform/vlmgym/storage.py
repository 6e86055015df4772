"""Where files of a run lie: a folder on this machine, or one that fsspec reaches, such as s3://bucket/runs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow.fs as pafs


@dataclass(frozen=True)
class Storage:
    """A folder. path: on `filesystem`, without a scheme. Can be pickled."""

    filesystem: pafs.FileSystem
    path: str

    @classmethod
    def at(cls, location: str | Path) -> Self:
        """location: a path, or a URI of any scheme that fsspec knows. Errors: ImportError, ValueError from fsspec."""
        if "://" not in str(location):
            return cls(pafs.LocalFileSystem(), str(Path(location).absolute()))
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(str(location))
        if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
            return cls(pafs.LocalFileSystem(), path)
        return cls(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path.rstrip("/"))

    @classmethod
    def given(cls, path: str | Path | None, filesystem: pafs.FileSystem | None) -> Self:
        """As RLlib is given a place: a path on a filesystem; without one a path here, or a URI that Arrow knows;
        without a path a new folder here."""
        location = tempfile.mkdtemp() if path is None else str(path)
        return cls(filesystem, location) if filesystem is not None else cls(*pafs.FileSystem.from_uri(location))

    def __truediv__(self, name: str) -> Storage:
        return Storage(self.filesystem, f"{self.path}/{name}")

    @property
    def renames(self) -> bool:
        """Whether a folder gets another name at once; object stores copy file by file instead."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return self.filesystem.get_file_info(self.path).type != pafs.FileType.NotFound

    def names(self) -> list[str]:
        """Of the files and folders in this one, sorted; none where it does not exist."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def read(self) -> str:
        """The text of a file. Errors: FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path) as file:
            return file.read().decode()

    def write(self, text: str) -> None:
        """A file, whole or not at all; its folder is made."""
        self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
        target = f"{self.path}.partial" if self.renames else self.path
        with self.filesystem.open_output_stream(target) as file:
            file.write(text.encode())
        if self.renames:
            self.filesystem.move(target, self.path)

    def copy_to(self, other: Storage) -> None:
        """A file or a folder; the folder that `other` lies in is made."""
        is_folder = self.filesystem.get_file_info(self.path).type == pafs.FileType.Directory
        other.filesystem.create_dir(other.path if is_folder else other.path.rpartition("/")[0], recursive=True)
        pafs.copy_files(
            self.path, other.path, source_filesystem=self.filesystem, destination_filesystem=other.filesystem
        )

    def delete(self) -> None:
        """A folder and all in it; nothing where there is none."""
        if self.exists():
            self.filesystem.delete_dir(self.path)
