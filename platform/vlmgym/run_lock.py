"""Who may write a run directory: one process at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlmgym.job import JobError


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Keeps a run directory for this process; the lock goes with the process, however that ends.

    It lies beside the directory, which a new run moves aside.

    Raises:
        JobError: another process has it.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    path = run_dir.parent / f".{run_dir.name}.lock"
    holder = path.with_suffix(".holder")
    lock = FileLock(path, blocking=False)
    try:
        with lock:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
            holder.unlink(missing_ok=True)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise JobError(f"{run_dir} is in use by {who}") from None
