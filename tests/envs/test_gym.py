import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlmgym_envs import Game, register_envs
from vlmgym_envs.gym import VLMGymEnv, env_id
from vlmgym_envs.splits import draw_start


@pytest.fixture
def env() -> VLMGymEnv:
    return VLMGymEnv("shisen_sho", "tiny", max_steps=3)


def legal(env: VLMGymEnv, info: dict[str, Any]) -> Any:
    return env.game.to_space(env.game.legal_actions(info["state"])[0])


def test_the_id_is_in_camel_case() -> None:
    assert env_id("shisen_sho") == "vlmgym/ShisenSho-v0"
    register_envs()
    assert "vlmgym/ShisenSho-v0" in gymnasium.registry


def test_gymnasium_finds_no_fault(game: Game[Any, Any, Any]) -> None:
    env = gymnasium.make(env_id(game.id), level=game.level_name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_the_picture_and_the_info_show_one_state(env: VLMGymEnv) -> None:
    image, info = env.reset(seed=3)
    assert np.array_equal(image, env.game.render(info["state"]))
    assert info["text"] == env.game.describe(info["state"])
    assert info["prompt"] == env.game.prompt and info["refused"] is None
    image, reward, terminated, truncated, info = env.step(legal(env, info))
    assert np.array_equal(image, env.game.render(info["state"]))
    assert (reward, terminated, truncated, info["refused"], info["cleared"]) == (1.0, False, False, None, False)


def test_the_same_seed_is_the_same_episode(env: VLMGymEnv) -> None:
    texts = [env.reset(seed=5)[1]["text"], *(env.reset()[1]["text"] for _ in range(4))]
    assert len(set(texts)) == 5
    assert texts == [env.reset(seed=5)[1]["text"], *(env.reset()[1]["text"] for _ in range(4))]
    assert env.reset(seed=5)[1]["state"] == draw_start(env.game, 5, "fresh", "all")


def test_an_illegal_action_costs_what_the_environment_says() -> None:
    env = VLMGymEnv("shisen_sho", "tiny", illegal_reward=-0.25)
    image, info = env.reset(seed=0)
    after, reward, terminated, truncated, refused = env.step(np.array([1, 1, 1, 1]))
    assert (reward, terminated, truncated) == (-0.25, False, False)
    assert refused["refused"] == "the two cells must differ, got (1, 1) twice"
    assert refused["state"] == info["state"] and np.array_equal(after, image)


def test_what_did_not_change_is_not_drawn_again(env: VLMGymEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    render = env.game.render
    monkeypatch.setattr(env.game, "render", lambda state: drawn.append(state) or render(state))
    image, info = env.reset(seed=0)
    action = legal(env, info)
    refused, *_ = env.step(np.array([1, 1, 1, 1]))
    assert refused is image and drawn == [info["state"]]
    after, *_, info = env.step(action)
    assert not np.array_equal(after, image) and len(drawn) == 2
    env.reset(seed=0)
    assert len(drawn) == 3


def test_nobody_can_paint_over_what_others_see() -> None:
    env = VLMGymEnv("shisen_sho", "tiny", render_mode="rgb_array")
    image, info = env.reset(seed=0)
    first, picture = image.copy(), env.render()
    assert picture is not None
    for shown in (image, picture):
        with pytest.raises(ValueError, match="read-only"):
            shown[:] = 0
    env.step(legal(env, info))
    assert np.array_equal(image, first)


def test_max_steps_truncates_and_a_finished_game_terminates(env: VLMGymEnv) -> None:
    _, info = env.reset(seed=0)
    truncations = []
    for _ in range(3):
        _, _, terminated, truncated, info = env.step(legal(env, info))
        truncations.append((terminated, truncated))
    assert truncations == [(False, False), (False, False), (False, True)]
    row = " - | - | - | - "
    text = "\n".join((row, " Red circle | - | - | Red circle ", row))
    _, info = env.reset(options={"state_text": text})
    assert info["text"] == text
    _, reward, terminated, truncated, info = env.step(legal(env, info))
    assert (reward, terminated, truncated, info["cleared"]) == (1.0, True, False, True)


def test_the_start_and_the_split_are_those_asked_for() -> None:
    env = VLMGymEnv("shisen_sho", "tiny", start="mid_game", split="held_out", held_out=0.2)
    assert env.reset(seed=9)[1]["state"] == draw_start(env.game, 9, "mid_game", "held_out", 0.2)


def test_render_follows_the_mode() -> None:
    env = gymnasium.make("vlmgym/ShisenSho-v0", level="tiny", render_mode="rgb_array")
    image, _ = env.reset(seed=1)
    assert np.array_equal(env.render(), image)
    silent = VLMGymEnv("shisen_sho", "tiny")
    silent.reset(seed=1)
    assert silent.render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"row": 3}, "unknown level knob 'row', did you mean 'rows'?"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        VLMGymEnv("shisen_sho", "tiny", **arguments)
    assert message in str(error.value)


def test_an_unknown_reset_option_is_refused(env: VLMGymEnv) -> None:
    with pytest.raises(ValueError, match="unknown reset option 'state', did you mean 'state_text'"):
        env.reset(options={"state": "board"})
