"""Looks through a data set: counts it, measures it anew by the rules, and says what should not be there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmgym.contact_sheet import contact_sheet
from vlmgym.dataset.directory import DataSet
from vlmgym.dataset.records import Row, Split
from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_envs.splits import in_held_out
from vlmgym_policies.answers import parse_response
from vlmgym_policies.insight import perceive


@dataclass(frozen=True)
class Part:
    """The rows of one game at one level in one split.

    reward: mean. exact: the share whose perception block is exactly the board, legal: of moves that the rules accept;
    both measured anew. num_tokens is not known: it depends on the model.
    """

    game: str
    level: str
    split: Split
    num_rows: int
    reward: float
    exact: float
    legal: float
    num_wordings: int


@dataclass(frozen=True)
class Inspection:
    """What was found. faults: what must not be in a data set, and how often it is; without those of 0."""

    parts: Sequence[Part]
    rejected: Sequence[tuple[str, dict[str, int]]]
    faults: dict[str, int]


def inspect_data_set(data: DataSet) -> Inspection:
    """Reads every row, and the head of every picture."""
    rows: dict[tuple[str, str, Split], list[Row]] = {}
    states: Counter[tuple[str, str, str]] = Counter()
    splits: dict[str, set[Split]] = {}
    held_out = {(source.game, source.level): source.held_out for source in data.about.recipe.sources}
    faults: Counter[str] = Counter()
    for split, row in data.all_rows():
        rows.setdefault((row.game, row.level, split), []).append(row)
        states[row.game, row.level, row.key] += 1
        splits.setdefault(row.key, set()).add(split)
        faults["held-out states"] += in_held_out(bytes.fromhex(row.key), held_out[row.game, row.level])
        faults["pictures missing"] += not data.image_path(split, row).is_file()
    faults["repeated states"] = sum(num - 1 for num in states.values())
    faults["states in two splits"] = sum(len(found) > 1 for found in splits.values())
    sources = zip(data.about.recipe.sources, data.about.counts, strict=True)
    return Inspection(
        parts=[_part(*place, found, faults) for place, found in sorted(rows.items())],
        rejected=[(source.name, counts.rejected) for source, counts in sources],
        faults={name: num for name, num in faults.items() if num},
    )


def draw_sheet(data: DataSet, path: Path, num_pictures: int) -> None:
    """A contact sheet of rows that are spread evenly over the data set, each with its answer."""
    found = list(data.all_rows())
    images = {}
    for place in np.linspace(0, len(found) - 1, min(num_pictures, len(found))).astype(int).tolist():
        split, row = found[place]
        with Image.open(data.image_path(split, row)) as picture:
            images[f"{row.game} {row.level} {row.key[:4]}: {row.action}"] = np.asarray(picture.convert("RGB"))
    contact_sheet(images).save(path)


def _part(game_id: str, level: str, split: Split, rows: Sequence[Row], faults: Counter[str]) -> Part:
    games: dict[str, Game[Any, Any, Any]] = {}
    num_exact = num_legal = 0
    for row in rows:
        game = games.get(row.overrides) or make_game(game_id, level, **json.loads(row.overrides))
        games[row.overrides] = game
        state, response = game.from_text(row.state), parse_response(row.response)
        num_exact += perceive(game, state, response).board
        num_legal += game.play(state, response.answer or "").refused is None
        faults["keys of another state"] += game.key(state).hex() != row.key
    return Part(
        game=game_id,
        level=level,
        split=split,
        num_rows=len(rows),
        reward=sum(row.reward for row in rows) / len(rows),
        exact=num_exact / len(rows),
        legal=num_legal / len(rows),
        num_wordings=len({row.think for row in rows}),
    )
