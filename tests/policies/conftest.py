"""A tiny model of every kind of architecture, and prompts that differ in length and pictures."""

import pytest
from architectures import ARCHITECTURES

from vlmgym_policies.engine import Message, Prompt
from vlmgym_policies.prompting import make_prompt


@pytest.fixture(scope="session", params=["qwen3_vl", *ARCHITECTURES])
def path(request, make_model, game, tmp_path_factory):
    if request.param == "qwen3_vl":
        return str(make_model(0))
    return str(ARCHITECTURES[request.param](tmp_path_factory.mktemp("models") / request.param, [game.prompt]))


@pytest.fixture(scope="session")
def prompts(game):
    """Of different lengths: a picture, none, two turns with pictures, a picture."""
    pictures = [make_prompt("", game.render(game.mid_game(seed))).images for seed in range(3)]
    turns = (
        Message("user", game.prompt, pictures[1]),
        Message("assistant", "(0, 1)"),
        Message("user", "?", pictures[2]),
    )
    return [
        make_prompt(game.prompt, game.render(game.mid_game(3))),
        Prompt((Message("user", "no picture"),)),
        Prompt(turns),
        Prompt((Message("user", "x", pictures[0]),)),
    ]
