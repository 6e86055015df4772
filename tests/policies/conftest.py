"""Tiny models, made once per test session."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vlmgym_envs.registry import make_game
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.tiny import make_tiny_vlm


@pytest.fixture(scope="session")
def game():
    return make_game("shisen_sho", level="tiny")


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, game) -> Callable[[int], Path]:
    """Model directories by seed, each made once."""
    made: dict[int, Path] = {}

    def make(seed: int = 0) -> Path:
        if seed not in made:
            demonstrator = Demonstrator(game, {"solver": 1.0})
            rng = np.random.default_rng(0)
            responses = [demonstrator.demonstrate(game.mid_game(i), rng) for i in range(200)]
            path = tmp_path_factory.mktemp("models") / f"tiny-{seed}"
            made[seed] = make_tiny_vlm(path, prompts=[game.prompt], responses=responses, seed=seed)
        return made[seed]

    return make
