import subprocess
from pathlib import Path

import pytest

from vlmgym.tracking import provenance as module
from vlmgym.tracking.provenance import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def place_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    code = folder / "code.py"
    code.write_text("1\n")
    monkeypatch.setattr(module, "__file__", str(code))
    return code


def test_the_revision_and_whether_the_code_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = place_code(tmp_path, monkeypatch)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    found = provenance()
    assert (found["git_revision"], found["git_changed"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    code.write_text("2\n")
    assert provenance()["git_changed"] is True


def test_code_that_lies_in_a_repository_of_somebody_else_has_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "first", "--allow-empty")
    place_code(tmp_path, monkeypatch)
    assert provenance()["git_revision"] is None


def test_versions_of_what_is_installed() -> None:
    found = provenance()["libraries"]
    assert {"ray", "torch", "numpy"} <= set(found) and all(found.values())
