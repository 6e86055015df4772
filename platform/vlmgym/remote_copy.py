"""What of a run directory goes to the storage that its job names: all but checkpoints, which are written there."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlmgym.checkpoints import CHECKPOINTS
from vlmgym.storage import Storage


class RemoteCopy:
    """Keeps the copy of a run directory, where it has one, as the directory is.

    storage: where the copy is; the directory itself where it has none.
    """

    def __init__(self, run_dir: Path, storage: Storage) -> None:
        self._run_dir = run_dir.absolute()
        self._storage = storage
        self._copied: dict[Path, tuple[int, int]] = {}
        self._is_needed = storage != Storage.at(run_dir)

    def fetch(self) -> None:
        """Makes the directory what its copy is; what else was in it is gone."""
        if not self._is_needed:
            return
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._run_dir.mkdir(parents=True)
        for name in self._storage.names():
            if name != CHECKPOINTS:
                (self._storage / name).copy_to(Storage.at(self._run_dir / name))
        self._copied = self._found()

    def update(self) -> None:
        """Copies the files that changed since the last time."""
        if not self._is_needed:
            return
        for path, stamp in self._found().items():
            if self._copied.get(path) != stamp:
                Storage.at(self._run_dir / path).copy_to(self._storage / path.as_posix())
                self._copied[path] = stamp

    def _found(self) -> dict[Path, tuple[int, int]]:
        """Size and time of each file."""
        names = [path for path in self._run_dir.iterdir() if path.name != CHECKPOINTS]
        files = [path for name in names for path in (name, *name.rglob("*")) if path.is_file()]
        return {path.relative_to(self._run_dir): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
