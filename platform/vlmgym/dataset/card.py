"""Decides what the card of a data set says: for the `datasets` library in its head, for people below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vlmgym.dataset.records import REJECTIONS, About, Split
from vlmgym.yaml12 import yaml_text

_TEXT = {"dtype": "string"}
_CHAT = [{"name": "role", **_TEXT}, {"name": "content", "list": [{"name": "type", **_TEXT}, {"name": "text", **_TEXT}]}]
FEATURES = [
    {"name": "image", "dtype": "image"},
    *({"name": name, **_TEXT} for name in ("game", "level", "overrides")),
    {"name": "seed", "dtype": "int64"},
    *({"name": name, **_TEXT} for name in ("key", "state", "teacher")),
    {"name": "prompt", "list": _CHAT},
    *({"name": name, **_TEXT} for name in ("response", "perception", "think", "action")),
    *({"name": name, "dtype": "float64"} for name in ("reward", "game_reward")),
    {"name": "legal", "dtype": "bool"},
    {"name": "cells", "dtype": "float64"},
]
"""As `load_dataset` gives them; `image` stands for file_name."""


class SplitSize(NamedTuple):
    """num_bytes: of its files."""

    num_rows: int
    num_bytes: int


def card(about: About, sizes: Mapping[Split, SplitSize]) -> str:
    """README.md. sizes: of the splits that have rows."""
    recipe = about.recipe
    head = {
        "task_categories": ["image-text-to-text"],
        "tags": ["vlmgym", *sorted({source.game for source in recipe.sources})],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/**"} for split in sizes],
            }
        ],
        "dataset_info": {
            "features": FEATURES,
            "splits": [
                {"name": split, "num_examples": size.num_rows, "num_bytes": size.num_bytes}
                for split, size in sizes.items()
            ],
        },
    }
    lines = [
        "# Demonstrations of visual games",
        "",
        "Made by `vlmgym data make`; dataset.json says how. No state occurs twice at a level, none is in two splits,",
        "and none is one that the environments hold out for evaluation.",
        "",
        "| game | level | teacher | states asked | rows | rejected |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for source, counts in zip(recipe.sources, about.counts, strict=True):
        rejected = ", ".join(f"{name} {num}" for name, num in counts.rejected.items()) or "0"
        teacher = source.teacher if isinstance(source.teacher, str) else ", ".join(source.teacher)
        lines.append(f"| {source.game} | {source.level} | {teacher} | {counts.asked} | {counts.kept} | {rejected} |")
    lines += [
        "",
        f"Splits: {', '.join(f'{split} {size.num_rows}' for split, size in sizes.items())}.",
        "",
        "`prompt` is a chat without the answer; where its content says image, the picture belongs. `response` is the",
        "whole answer, `perception`, `think` and `action` are its blocks. `reward` is what training would pay for it,",
        "`cells` the share of cells perceived right. `draw_start` gives the state for `seed`, `Game.key` its `key`.",
        "",
        "rejected.jsonl has the answers that were not kept, each with its reason:",
        "",
        *(f"- `{name}`: {meaning}." for name, meaning in REJECTIONS.items()),
        "",
    ]
    return "---\n" + yaml_text(head) + "---\n\n" + "\n".join(lines)
