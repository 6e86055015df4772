"""The image is built as the linter likes it, by a user that is not root, from files that are there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "k8s" / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def stages() -> dict[str, list[list[str]]]:
    """Instructions by stage."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in DOCKERFILE.read_text().splitlines() if line[:1] != "#"))
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        words = shlex.split(line)
        if words and words[0] == "FROM":
            found[words[-1]] = []
        if words:
            list(found.values())[-1].append(words)
    return found


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, path], capture_output=True, text=True, check=False)


def test_the_linter_has_nothing_to_say() -> None:
    done = lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_the_linter_would_say_it(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(DOCKERFILE.read_text().replace("FROM python:3.12-slim-bookworm", "FROM python"))
    done = lint(path)
    assert done.returncode == 1 and "DL3006" in done.stdout


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_runs_as_the_user_of_the_manifests(target: str) -> None:
    users = [words[1] for words in stages()[target] if words[0] == "USER"]
    assert users[-1:] == ["1000:1000"]


def test_what_is_copied_is_there_and_let_through() -> None:
    copies = [words[1:-1] for stage in stages().values() for words in stage if words[0] == "COPY"]
    sources = [name for names in copies if not names[0].startswith("--from") for name in names]
    allowed = (ROOT / "k8s" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {"jobs", "platform", "envs", "policies"} <= set(sources)
    assert all((ROOT / name).exists() and f"!{name}" in allowed for name in sources)


def test_the_probes_of_the_operator_find_wget() -> None:
    assert any("wget" in words for words in stages()["runtime"])
