"""Decides how a data set reaches the disk: as a draft beside its place, which takes that place once it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from vlmgym.dataset.card import SplitSize, card
from vlmgym.dataset.directory import ABOUT_FILE, CARD_FILE, IMAGES_DIR, REJECTED_FILE, ROWS_FILE, DataSet, read_lines
from vlmgym.dataset.records import SPLITS, About, Counts, Recipe, RejectedAnswer, Row, Split, split_of
from vlmgym.dataset.teaching import KeptAnswer
from vlmgym.errors import BadInput
from vlmgym.evals.log import Record

PROGRESS_FILE = "progress.json"


class Progress(Record):
    """How far a draft is. counts: of the sources so far, the last one may be under way. sizes: of its files, in bytes;
    what stands behind that is not counted yet."""

    recipe: Recipe
    counts: tuple[Counts, ...]
    sizes: Mapping[str, int]


class Draft:
    """A data set that is being made at DIR.partial. What a kill leaves there goes on where it stopped.

    counts: of each source that was begun. seen: (game, level, key) of every state that was put before a teacher.
    """

    def __init__(self, out: Path, recipe: Recipe) -> None:
        """Errors: BadInput where `out` is there already, or a draft of another recipe is."""
        self._out = out
        self._path = out.with_name(f"{out.name}.partial")
        self._recipe = recipe
        if out.exists():
            raise BadInput(f"{out} is there already: choose another --out, or remove it")
        self._files: dict[str, Path] = {split: self._path / split / ROWS_FILE for split in SPLITS}
        self._files["rejected"] = self._path / REJECTED_FILE
        self.counts: list[Counts] = []
        self._begin_or_go_on()
        rows = [row for split in SPLITS for row in read_lines(self._files[split], Row)]
        rejected = list(read_lines(self._files["rejected"], RejectedAnswer))
        self.seen = {(row.game, row.level, row.key) for row in rows}
        self.seen |= {(answer.game, answer.level, answer.key) for answer in rejected}

    def add(self, kept: KeptAnswer) -> None:
        """Counted once `commit` returns."""
        row = kept.row
        split = split_of(bytes.fromhex(row.key), self._recipe.seed, self._recipe.validation)
        (self._path / split / row.file_name).write_bytes(kept.image)
        _append(self._files[split], row)

    def reject(self, answer: RejectedAnswer) -> None:
        """Counted once `commit` returns."""
        _append(self._files["rejected"], answer)

    def commit(self, counts: Counts, number: int) -> None:
        """What was added so far is what `counts` says of source `number`; a kill after this loses none of it."""
        self.counts[number:] = [counts]
        sizes = {name: file.stat().st_size for name, file in self._files.items()}
        progress = Progress(recipe=self._recipe, counts=tuple(self.counts), sizes=sizes)
        _replace(self._path / PROGRESS_FILE, progress.model_dump_json(indent=2))

    def finish(self) -> DataSet:
        """Puts the data set in its place."""
        about = About(recipe=self._recipe, counts=tuple(self.counts))
        _replace(self._path / ABOUT_FILE, about.model_dump_json(indent=2) + "\n")
        sizes = {split: self._size_of(split) for split in SPLITS}
        _replace(self._path / CARD_FILE, card(about, {split: size for split, size in sizes.items() if size.num_rows}))
        (self._path / PROGRESS_FILE).unlink()
        for split, size in sizes.items():
            if not size.num_rows:
                shutil.rmtree(self._path / split)
        os.replace(self._path, self._out)
        return DataSet(self._out)

    def _size_of(self, split: Split) -> SplitSize:
        files = [path for path in (self._path / split).rglob("*") if path.is_file()]
        return SplitSize(self._files[split].read_bytes().count(b"\n"), sum(path.stat().st_size for path in files))

    def _begin_or_go_on(self) -> None:
        file = self._path / PROGRESS_FILE
        for split in SPLITS:
            (self._path / split / IMAGES_DIR).mkdir(parents=True, exist_ok=True)
        for path in self._files.values():
            path.touch()
        sizes: Mapping[str, int] = dict.fromkeys(self._files, 0)
        if file.exists():
            try:
                progress = Progress.model_validate_json(file.read_bytes())
            except ValidationError as error:
                raise BadInput(f"{file}: {error.errors()[0]['msg']}") from error
            if progress.recipe != self._recipe:
                raise BadInput(f"{self._path} is the draft of another data set: remove it, or choose another --out")
            self.counts, sizes = list(progress.counts), progress.sizes
        for name, size in sizes.items():
            os.truncate(self._files[name], size)
        for split in SPLITS:
            named = {row.file_name for row in read_lines(self._files[split], Row)}
            for image in (self._path / split / IMAGES_DIR).iterdir():
                if f"{IMAGES_DIR}/{image.name}" not in named:
                    image.unlink()


def _append(path: Path, record: Record) -> None:
    with path.open("ab") as file:
        file.write(record.model_dump_json().encode() + b"\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
