"""Decides where results lie that must outlive the folder a command runs in."""

from __future__ import annotations

import os
from pathlib import Path

from vlmgym.cluster import is_unpacked

HOME_VARIABLE = "VLMGYM_HOME"
HOME = "~/vlmgym"


def home() -> Path:
    """What relative paths of results are relative to: VLMGYM_HOME; else HOME, where Ray unpacked the folder and will
    delete it; else the folder itself, `Path()`."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named)
    return Path(HOME).expanduser() if is_unpacked(Path.cwd()) else Path()


def at_home(path: str) -> str:
    """A path or URI of results, with a relative path below `home`."""
    return path if "://" in path else str(home() / path)
