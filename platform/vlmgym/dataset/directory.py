"""Decides where things lie in a data set, and reads them: rows as JSON lines, their pictures beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from vlmgym.dataset.records import SPLITS, VERSION, About, ChatMessage, Part, Row, Split
from vlmgym.errors import BadInput
from vlmgym_policies.engine import Message, Prompt

ABOUT_FILE = "dataset.json"
CARD_FILE = "README.md"
ROWS_FILE = "metadata.jsonl"
IMAGES_DIR = "images"
REJECTED_FILE = "rejected.jsonl"

R = TypeVar("R", bound=BaseModel)


class DataSet:
    """A finished data set on disk. about: how it was made."""

    def __init__(self, path: Path) -> None:
        """Errors: BadInput where there is none, or one that a newer version has made."""
        self.path = path
        file = path / ABOUT_FILE
        if not file.is_file():
            raise BadInput(f"{path} is no data set: it has no {ABOUT_FILE}")
        try:
            self.about = About.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise BadInput(f"{file}: {error.errors()[0]['msg']}") from error
        if self.about.recipe.version > VERSION:
            raise BadInput(f"{file} has version {self.about.recipe.version}, this vlmgym reads up to {VERSION}")

    def rows(self, split: Split) -> list[Row]:
        """In the order in which they were made. Errors: BadInput for a line that is no row."""
        return list(read_lines(self.path / split / ROWS_FILE, Row))

    def all_rows(self) -> Iterator[tuple[Split, Row]]:
        for split in SPLITS:
            for row in self.rows(split):
                yield split, row

    def image_path(self, split: Split, row: Row) -> Path:
        return self.path / split / row.file_name


def read_lines(path: Path, record_class: type[R]) -> Iterator[R]:
    """The records of a file of JSON lines, none where there is no file.

    Errors: BadInput with the number of the line.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield record_class.model_validate_json(line)
            except ValidationError as error:
                raise BadInput(f"{path}, line {number}: {error.errors()[0]['msg']}") from error


def chat_of(prompt: Prompt) -> tuple[ChatMessage, ...]:
    """A prompt as a row has it: its pictures have their places in it, and lie elsewhere."""
    return tuple(
        ChatMessage(
            role=message.role,
            content=(*(Part(type="image") for _ in message.images), Part(type="text", text=message.text)),
        )
        for message in prompt.messages
    )


def prompt_of(chat: tuple[ChatMessage, ...], image: bytes) -> Prompt:
    """The inverse of `chat_of` for prompts of one picture at most. image: PNG."""
    messages = []
    for message in chat:
        text = "".join(part.text or "" for part in message.content)
        images = tuple(image for part in message.content if part.type == "image")
        messages.append(Message(message.role, text, images))
    return Prompt(tuple(messages))
