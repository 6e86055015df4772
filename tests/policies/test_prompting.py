"""What each way of showing a board shows of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmgym_envs.core import Game
from vlmgym_envs.registry import game_ids, make_game
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import PICTURE_SHOWS, ask, instruction, png
from vlmgym_policies.tiny import make_tiny_vlm

AnyGame = Game[Any, Any, Any]


@pytest.fixture(params=game_ids())
def any_game(request: pytest.FixtureRequest) -> AnyGame:
    return make_game(request.param, "tiny")


def test_a_picture_is_shown_without_words_about_this_board(any_game: AnyGame) -> None:
    state = any_game.mid_game(1)
    (message,) = ask(any_game, state).messages
    assert message.text == any_game.prompt and message.images == (png(any_game.render(state)),)


def test_a_text_is_shown_without_a_picture_or_talk_of_one(any_game: AnyGame) -> None:
    state = any_game.mid_game(1)
    (message,) = ask(any_game, state, "text").messages
    assert message.images == () and message.text.endswith("\n" + any_game.describe(state))
    assert any_game.prompt.startswith(PICTURE_SHOWS) and not message.text.startswith(PICTURE_SHOWS)
    assert message.text.splitlines()[1] == any_game.prompt.splitlines()[1]


def test_an_oracle_shows_both(any_game: AnyGame) -> None:
    state = any_game.mid_game(1)
    (message,) = ask(any_game, state, "oracle").messages
    assert message.images == (png(any_game.render(state)),)
    assert message.text == instruction(any_game, "oracle") + any_game.describe(state)
    assert message.text.startswith(any_game.prompt)


def test_a_picture_that_is_drawn_already_is_not_drawn_again(game: AnyGame) -> None:
    state, other = game.mid_game(1), game.render(game.mid_game(2))
    assert ask(game, state, "oracle", other).images == (png(other),)


@pytest.mark.parametrize("observation", ["text", "oracle"])
def test_a_tiny_model_reads_the_board_in_its_own_tokens(game: AnyGame, tmp_path: Path, observation: Any) -> None:
    """Behind a token per line of the instruction stand the tokens that the board has in a response."""
    demonstrator, rng = Demonstrator(game, {"solver": 1.0}), np.random.default_rng(0)
    responses = [demonstrator.demonstrate(game.mid_game(seed), rng) for seed in range(300)]
    prompts = [instruction(game, observation)]
    processor = VLMProcessor(str(make_tiny_vlm(tmp_path / "m", prompts=prompts, responses=responses, seed=0)))
    state = game.mid_game(1000)
    board = processor.spell_response(game.describe(state)).token_ids[:-1].tolist()
    lines = processor.spell_response(prompts[0]).token_ids[:-1].tolist()
    assert len(lines) == len(prompts[0].splitlines())
    shown = processor.encode(ask(game, state, observation)).tolist()
    start = shown.index(lines[0])
    assert shown[start : start + len(lines) + len(board)] == [*lines, *board]
