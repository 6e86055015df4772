"""Decides what the directory of an evaluation holds, and that it holds one evaluation only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmgym.errors import BadInput
from vlmgym.evals.log import LOG_FILE, Evaluation

EVALUATION_FILE = "evaluation.json"
MAX_CHARS = 40
"""Of a value in a line that says what differs."""


class EvaluationDir:
    """Where everything of an evaluation lies.

    log: the result. steps: what is played so far, gone once all runs are in the log. curves, videos: pictures of it.
    """

    def __init__(self, path: Path, evaluation: Evaluation) -> None:
        """Makes the directory, or goes on in that of an equal evaluation.

        Errors: BadInput where it holds another evaluation, or anything else.
        """
        self.path = path
        self.log = path / LOG_FILE
        self.steps = path / "steps.jsonl"
        self.curves = path / "curves.png"
        self._claim(evaluation)

    def outcomes(self, teacher: str) -> Path:
        """The finished runs of a ceiling."""
        return self.path / "ceilings" / f"{teacher}.jsonl"

    def video(self, run: int) -> Path:
        return self.path / "videos" / f"run-{run:03d}.mp4"

    def _claim(self, evaluation: Evaluation) -> None:
        check_dir(self.path, evaluation)
        for folder in (self.path, self.outcomes("").parent, self.video(0).parent):
            folder.mkdir(parents=True, exist_ok=True)
        file = self.path / EVALUATION_FILE
        if not file.is_file():
            partial = file.with_suffix(".partial")
            partial.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
            os.replace(partial, file)


def check_dir(path: Path, evaluation: Evaluation) -> None:
    """Errors: BadInput where `path` exists and is not the directory of an equal evaluation."""
    file = path / EVALUATION_FILE
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        if changes := list(_changes(there, evaluation.model_dump(mode="json"))):
            raise BadInput(f"{path} holds another evaluation: {', '.join(changes[:3])}; choose another --out")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"{path} is in use and holds no evaluation: choose another --out")


def _changes(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Each field that differs, as "max_steps 100 there, 50 here"."""
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} {_shown(old)} there, {_shown(new)} here"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}..."
