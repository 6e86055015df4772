"""Decides what a page holds: one HTML file with its styles, its program and its data, which asks nothing of a network.

Data: an index, read at once, and the groups of each saved iteration, read when one of them is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

from vlmgym.evals.log import Summary
from vlmgym.tracking.group_record import BranchRecord, GroupRecord
from vlmgym.viewer.curve_panels import curve_sections
from vlmgym.viewer.sheet import TileSheet
from vlmgym.viewer.source import Source
from vlmgym_policies.insight import ERRORS

STYLES = ("page.css",)
SCRIPTS = ("data.js", "board.js", "curves.js", "filters.js", "list.js", "group.js", "response.js", "keys.js", "main.js")
"""Put together in this order."""

OUTCOMES: Mapping[str, str] = {
    "legal": "every move legal",
    "refused": "a move refused",
    "no_move": "names no move",
    "malformed": "tags missing",
    "cut": "cut at the token limit",
    "won": "won",
    "exact": "board perceived exactly",
}
"""What a response can be filtered by; the page knows them by their place here."""


def build_page(source: Source) -> str:
    """The page, complete."""
    layouts = Layouts(source)
    chunks = [
        [layouts.board_numbers(group) for group in groups]
        for _, groups in groupby(source.groups, key=lambda group: (group.stage, group.step))
    ]
    data = [json_element("index", _index(source, layouts))]
    data += [json_element(f"groups-{number}", chunk) for number, chunk in enumerate(chunks)]
    return fill_page("page.html", source.title, data, STYLES, SCRIPTS)


def fill_page(template: str, title: str, data: Sequence[str], styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A page of assets/. data: the elements that its program reads. styles, scripts: put together in this order."""
    assets = files("vlmgym.viewer") / "assets"
    parts = {
        "title": escape(title),
        "style": "\n".join((assets / name).read_text(encoding="utf-8") for name in styles),
        "data": "\n".join(data),
        "script": "\n".join((assets / name).read_text(encoding="utf-8") for name in scripts),
    }
    page = (assets / template).read_text(encoding="utf-8")
    head, *rest = page.split("<!-- vlmgym:")
    return head + "".join(parts[name] + tail for name, tail in (part.split(" -->", 1) for part in rest))


class Layouts:
    """The levels that groups were played at: where cells are, what stands in them, and the sheet of their tiles."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sheets: dict[tuple[Any, ...], TileSheet] = {}
        self._words: dict[tuple[Any, ...], dict[str, int]] = {}
        self._drawn: dict[str, dict[str, Any]] = {}
        self._about: list[dict[str, Any]] = []

    def number(self, group: GroupRecord) -> int:
        """Of the group's layout."""
        return list(self._sheets).index(_layout_key(group))

    def board_numbers(self, group: GroupRecord) -> dict[str, Any]:
        """The record of a group, its boards as numbers of tiles and of words."""
        key = _layout_key(group)
        if key not in self._sheets:
            self._sheets[key] = TileSheet(group.tile_px, group.border_px)
            self._words[key] = {}
            names = ("game", "level", "tile_px", "border_px", "unit")
            self._about.append({name: getattr(group, name) for name in names})
        sheet, words = self._sheets[key], self._words[key]
        boards = []
        for board in group.boards:
            rows = [[cell.strip() for cell in line.split("|")] for line in board.text.strip("\n").split("\n")]
            numbers = [[words.setdefault(cell, len(words)) for cell in row] for row in rows]
            place = f"{key}/{board.picture}"
            if place not in self._drawn:
                self._drawn[place] = sheet.add(self._source.picture(group, board.picture))
            boards.append({"cells": numbers, "best": board.best, **self._drawn[place]})
        record = group.model_dump(mode="json", exclude_defaults=True, include={"weights_version", "branches"})
        return {**record, "boards": boards}

    def described(self) -> list[dict[str, Any]]:
        """Each layout, once all groups have been numbered."""
        pairs = zip(self._about, self._sheets.values(), self._words.values(), strict=True)
        return [{**about, "sheet": sheet.picture(), "words": list(words)} for about, sheet, words in pairs]


def _index(source: Source, layouts: Layouts) -> dict[str, Any]:
    metrics = _columns(source.metrics)
    iterations = groupby(source.groups, key=lambda group: (group.stage, group.step))
    return {
        "title": source.title,
        "settings": source.settings,
        "errors": dict(ERRORS),
        "outcomes": dict(OUTCOMES),
        "sections": curve_sections(metrics),
        "metrics": metrics,
        "scores": {policy: _shown(summary) for policy, summary in source.scores.items()},
        "layouts": layouts.described(),
        "iterations": [
            {"stage": stage, "step": step, "groups": [_entry(group, layouts) for group in groups]}
            for (stage, step), groups in iterations
        ],
    }


def _entry(group: GroupRecord, layouts: Layouts) -> list[Any]:
    """What the list and the filters know of a group: number, layout; per branch reward, errors, outcomes; turns."""
    branches = group.branches
    return [
        group.group_id,
        layouts.number(group),
        [round(branch.reward, 4) for branch in branches],
        [_error_bits(branch) for branch in branches],
        [_outcome_bits(branch) for branch in branches],
        max(len(branch.turns) for branch in branches),
    ]


def _error_bits(branch: BranchRecord) -> int:
    """Bit i: the i-th of ERRORS occurs."""
    occurring = {error.error for turn in branch.turns for error in turn.errors}
    return sum(1 << bit for bit, name in enumerate(ERRORS) if name in occurring)


def _outcome_bits(branch: BranchRecord) -> int:
    """Bit i: the i-th of OUTCOMES holds."""
    turns = branch.turns
    holds = {
        "legal": all(turn.refused is None for turn in turns),
        "refused": any(turn.refused is not None for turn in turns),
        "no_move": any(turn.move is None for turn in turns),
        "malformed": any(not turn.well_formed for turn in turns),
        "cut": any(turn.cut for turn in turns),
        "won": branch.won is True,
        "exact": not any(turn.errors for turn in turns),
    }
    return sum(1 << bit for bit, name in enumerate(OUTCOMES) if holds[name])


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """stage -> metric -> [steps, values], where there are values."""
    stages: dict[str, dict[str, list[Any]]] = {}
    for line in lines:
        metrics = stages.setdefault(line["stage"], {})
        for name, value in line.items():
            if name not in ("stage", "step", "time_s") and value is not None:
                steps, values = metrics.setdefault(name, [[], []])
                steps.append(line["step"])
                values.append(float(f"{value:.6g}"))
    return stages


def _shown(summary: Summary) -> dict[str, Any]:
    names = ("score", "won", "illegal", "well_formed", "cells", "boards")
    found = {name: getattr(summary, name) for name in names}
    intervals = {name: [value.mean, value.low, value.high] for name, value in found.items() if value is not None}
    return {"num_runs": summary.num_runs, **intervals}


def _layout_key(group: GroupRecord) -> tuple[Any, ...]:
    return group.game, group.level, group.tile_px, group.border_px


def json_element(name: str, value: Any) -> str:
    """JSON in an element of its own; nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
