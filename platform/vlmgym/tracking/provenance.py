"""Which code and libraries a run was made with."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmgym import __version__

LIBRARIES = ("ray", "torch", "transformers", "vllm", "numpy", "wandb")


def provenance() -> dict[str, Any]:
    """Versions and git revision of the code; None where it lies in no repository, as in Ray's working directory."""
    return {
        "vlmgym": __version__,
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
        **_git(),
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    """The revision, and whether files that git knows differ from it.

    Code that was installed below somebody's repository is no part of it.
    """
    here = Path(__file__).parent
    if _run_git("ls-files", "--error-unmatch", Path(__file__).name, folder=here) is None:
        return {"git_revision": None, "git_changed": None}
    revision = _run_git("rev-parse", "HEAD", folder=here)
    changes = _run_git("status", "--porcelain", "--untracked-files=no", folder=here)
    return {"git_revision": revision, "git_changed": None if changes is None else bool(changes)}


def _run_git(*arguments: str, folder: Path) -> str | None:
    """What git prints; None where there is no git, no repository, or it does not trust this one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
