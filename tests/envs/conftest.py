"""Every named level of every game: a new file in games/ is tested without a word here."""

from typing import Any

import pytest

from vlmgym_envs import Game, game_ids, level_ids, make_game

LEVELS = [(game_id, level) for game_id in game_ids() for level in level_ids(game_id)]


@pytest.fixture(params=LEVELS, ids="-".join)
def game(request: pytest.FixtureRequest) -> Game[Any, Any, Any]:
    return make_game(*request.param)


@pytest.fixture
def tiny() -> Game[Any, Any, Any]:
    return make_game("shisen_sho", "tiny")
