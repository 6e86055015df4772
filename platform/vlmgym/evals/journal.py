"""Decides how records reach the disk one by one, so that an interrupted evaluation can go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from vlmgym.errors import BadInput
from vlmgym.evals.log import Record, StepLog

R = TypeVar("R", bound=Record)


class JournalStep(Record):
    """A step that was played, with its place: both counted from 0."""

    run: int
    step: int
    log: StepLog


class Journal(Generic[R]):
    """A file of JSON lines. A last line that a kill cut short is dropped."""

    def __init__(self, path: Path, record_class: type[R]) -> None:
        """Errors: BadInput where the file holds anything else than such records."""
        self.path = path
        self._record_class = record_class
        self.records = self._read()
        self._file = path.open("ab")

    def append(self, record: R) -> None:
        """The operating system has it when this returns."""
        self._file.write(record.model_dump_json(exclude_defaults=True).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _read(self) -> list[R]:
        if not self.path.exists():
            return []
        *lines, rest = self.path.read_bytes().split(b"\n")
        if rest:
            os.truncate(self.path, self.path.stat().st_size - len(rest))
        try:
            return [self._record_class.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise BadInput(f"{self.path} is damaged: choose another --out") from error
