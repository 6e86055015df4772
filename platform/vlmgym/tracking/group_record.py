"""Decides what is kept of a group to look at it later: rollouts/STAGE-STEP/groups.jsonl, one group per line.

Typed, with the version of its schema. A field left out has its default. The boards' pictures lie beside the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from vlmgym.errors import BadInput
from vlmgym.evals.log import Record
from vlmgym.metrics_file import Point
from vlmgym_envs.core import Game, InvalidAnswer
from vlmgym_envs.level import BoardLevel
from vlmgym_policies.answers import parse_response
from vlmgym_policies.insight import CellError, cell_errors
from vlmgym_policies.prompting import png

VERSION = 1
GROUPS_FILE = "groups.jsonl"
ROLLOUTS_DIR = "rollouts"


class BoardRecord(Record):
    """A state as a player sees it. text: the exact perception text. picture: a file beside the record.

    best: the solver's answer, None in a finished game and where nobody asked the solver.
    """

    text: str
    picture: str
    best: str | None = None


class TurnRecord(Record):
    """One decision. board: where it was taken, an index into the group's boards.

    move: what the answer names, as the game writes it; None where it names nothing. refused: why it did not count.
    reward: what is trained on; game_reward: the game's part of it. errors: the cells that were perceived wrong.
    regret: in the game's `value_unit`, None unjudged. advantage: None where nothing was compared.
    cut: stopped at the largest number of tokens.
    """

    board: int
    response: str
    move: str | None = None
    refused: str | None = None
    reward: float
    game_reward: float
    well_formed: bool
    errors: tuple[CellError, ...] = ()
    regret: float | None = None
    advantage: float | None = None
    num_tokens: int | None = None
    cut: bool = False


class BranchRecord(Record):
    """One response after the other, from the group's start. end: the board after the last turn."""

    turns: tuple[TurnRecord, ...]
    end: int
    terminated: bool = False
    won: bool | None = None

    @property
    def reward(self) -> float:
        """Of all turns together."""
        return sum(turn.reward for turn in self.turns)


class GroupRecord(Record):
    """Branches that start on board 0. stage, step: of the run. weights_version: the oldest that answered.

    tile_px, border_px: where the cells of the pictures are; no tile_px where they show no board of tiles.
    unit: of regrets.
    """

    version: Literal[1]
    stage: str
    step: int
    group_id: int
    game: str
    level: str
    weights_version: int | None = None
    tile_px: int | None = None
    border_px: int = 0
    unit: str
    boards: tuple[BoardRecord, ...]
    branches: tuple[BranchRecord, ...]


class GroupWithPictures(NamedTuple):
    """A record, and the PNG files that it names."""

    record: GroupRecord
    pictures: Mapping[str, bytes]


class Boards:
    """Collects the different boards of a group, and their pictures."""

    def __init__(self, game: Game[Any, Any, Any]) -> None:
        self._game = game
        self._indices: dict[str, int] = {}
        self.records: list[BoardRecord] = []
        self.pictures: dict[str, bytes] = {}

    def add(self, state: Any, best: str | None = None) -> int:
        """The index of a state's board. best: the solver's answer there, where it is known."""
        text = self._game.describe(state)
        if text not in self._indices:
            picture = png(self._game.render(state))
            name = f"{blake2b(picture, digest_size=8).hexdigest()}.png"
            self.pictures[name] = picture
            self._indices[text] = len(self.records)
            self.records.append(BoardRecord(text=text, picture=name))
        index = self._indices[text]
        if best is not None:
            self.records[index] = self.records[index].model_copy(update={"best": best})
        return index


def layout(game: Game[Any, Any, Any]) -> dict[str, int]:
    """The fields of a group that say where the cells of its pictures are."""
    level = game.level
    return {"tile_px": level.tile_px, "border_px": level.border_px} if isinstance(level, BoardLevel) else {}


def read_turn(game: Game[Any, Any, Any], state: Any, response: str) -> dict[str, Any]:
    """The fields of a turn that follow from the response: the move that it names, and the cells that it gets wrong."""
    parsed = parse_response(response)
    return {
        "response": response,
        "move": _move(game, parsed.answer),
        "well_formed": parsed.well_formed,
        "errors": tuple(cell_errors(game, state, parsed)),
    }


def rollouts_dir(run_dir: Path, point: Point) -> Path:
    """Where the groups that led to `point` are kept."""
    return run_dir / ROLLOUTS_DIR / f"{point.stage}-{point.step:04d}"


def write_groups(folder: Path, groups: Sequence[GroupWithPictures]) -> None:
    """Writes groups.jsonl into a folder, and one PNG per different picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in groups:
        for name, picture in group.pictures.items():
            (folder / name).write_bytes(picture)
    lines = [group.record.model_dump_json(exclude_defaults=True) for group in groups]
    partial = (folder / GROUPS_FILE).with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(partial, folder / GROUPS_FILE)


def read_groups(folder: Path) -> Iterator[GroupRecord]:
    """The groups of a folder, in order.

    Errors: BadInput where a line is no group of a version that is known here.
    """
    path = folder / GROUPS_FILE
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield GroupRecord.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                raise BadInput(f"{path}, line {number} is no group: {place}: {first['msg']}") from error


def _move(game: Game[Any, Any, Any], answer: str | None) -> str | None:
    if answer is None:
        return None
    try:
        return game.format_answer(game.parse(answer))
    except InvalidAnswer:
        return None
