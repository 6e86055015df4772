"""What README and docs ask a reader to type: fenced blocks, the shell commands in them, and code within sentences."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "k8s/README.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Block(NamedTuple):
    """page: its path in the repository. line: of the fence, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Every fenced block in one of the languages, of all of them if none is named."""
    found = [block for path in PAGES for block in _blocks_of(path)]
    return [block for block in found if not languages or block.language in languages]


def commands() -> dict[str, list[str]]:
    """Every shell command, without its comment, with the places where it stands."""
    found: dict[str, list[str]] = {}
    for block in blocks("bash", "sh", "shell", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            command = _without_comment(line)
            if command:
                found.setdefault(command, []).append(block.place)
    return found


def code_spans() -> list[tuple[str, str]]:
    """(page, code) of all code within sentences; a line break in it is a space."""
    found = []
    for path in PAGES:
        text = _FENCE.sub("", path.read_text(encoding="utf-8"))
        found += [(path.relative_to(ROOT).as_posix(), " ".join(code.split())) for code in _SPAN.findall(text)]
    return found


def _blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(path.relative_to(ROOT).as_posix(), line, found[1], found[2])


def _without_comment(line: str) -> str:
    """The command of a line with single spaces; quotes as they are."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, "#"
    return " ".join(lexer)
