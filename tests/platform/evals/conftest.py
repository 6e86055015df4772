import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from vlmgym.evals.log import Evaluation, Policy, StepLog
from vlmgym.evals.policies import find_policy
from vlmgym.evals.protocol import MAX_STEPS
from vlmgym_envs.registry import make_game

EQUAL_TILES = """
import io, zlib
from itertools import combinations
import numpy as np
from PIL import Image

asked = []  # how many prompts each call had
fail_after = None  # calls

def answer(images, prompts):
    if fail_after is not None and len(asked) >= fail_after:
        raise RuntimeError("the power is cut")
    asked.append(len(prompts))
    return [_one(image) for image in images]

async def answer_later(images, prompts):
    return answer(images, prompts)

def one_too_few(images, prompts):
    return [""] * (len(prompts) - 1)

def _one(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    tiles = [pixels[16 * r : 16 * r + 16, 16 * c : 16 * c + 16].tobytes() for r in range(3) for c in range(4)]
    pairs = [(a, b) for a, b in combinations(range(12), 2) if tiles[a] == tiles[b] and tile_is_drawn(tiles[a])]
    a, b = pairs[zlib.crc32(png) % len(pairs)]
    return f"<think>equal</think><answer>{divmod(a, 4)} {divmod(b, 4)}</answer>"

def tile_is_drawn(tile):
    return len(set(tile)) > 2
"""
"""A policy that looks: names two equal tiles of a tiny board, the same ones for the same picture."""


@pytest.fixture
def looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module EQUAL_TILES, importable as `looking`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "looking.py").write_text(EQUAL_TILES)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.delitem(sys.modules, "looking", raising=False)
    import looking  # type: ignore[import-not-found]

    return looking  # type: ignore[no-any-return]


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than playing a tiny game."""
    monkeypatch.setattr("vlmgym.evals.evaluation.draw_score_curves", lambda log, path: path.touch())


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=120)


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    """An evaluation of Shisen-Sho, tiny; changes by field, policy as a spec."""

    def make(policy: str | Policy = "legal_random", game: str = "shisen_sho", **changes: Any) -> Evaluation:
        played = make_game(game, "tiny")
        protocol = changes.pop("protocol", "paper")
        fields: dict[str, Any] = {
            "game": game,
            "level": "tiny",
            "overrides": {},
            "knobs": {"rows": 3},
            "prompt": played.prompt,
            "score": played.score,
            "policy": find_policy(policy, played) if isinstance(policy, str) else policy,
            "protocol": protocol,
            "num_runs": 3,
            "max_steps": MAX_STEPS[protocol],
            "seed": 0,
            "temperature": 1.0,
            "max_tokens": 64,
        }
        return Evaluation(**{**fields, **changes})

    return make


@pytest.fixture
def make_step() -> Callable[..., StepLog]:
    """A legal, well-formed step that paid 1; changes by field."""

    def make(**changes: Any) -> StepLog:
        fields = {"state": None, "response": "r", "reward": 1.0, "well_formed": True, "cells": 1.0}
        return StepLog(**{**fields, **changes})

    return make
