import subprocess
import sys

import gymnasium
import pytest

from vlmgym_envs import game_ids, level_ids, make_game
from vlmgym_envs.gym import env_id


def test_the_file_name_is_the_id() -> None:
    assert "shisen_sho" in game_ids()
    assert not any(game_id.startswith("_") for game_id in game_ids())
    assert make_game("shisen_sho").id == "shisen_sho"


@pytest.mark.parametrize("game_id", game_ids())
def test_every_game_has_the_levels_tiny_and_paper(game_id: str) -> None:
    assert {"tiny", "paper"} <= set(level_ids(game_id))


def test_overrides_come_after_the_named_level_and_show_in_its_name() -> None:
    game = make_game("shisen_sho", "tiny", tile_px=8, border_px=2)
    assert game.image_shape == (3 * 8 + 4, 4 * 8 + 4, 3)
    assert game.level_name == "tiny[border_px=2,tile_px=8]"
    assert make_game("shisen_sho", "tiny").level_name == "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shisensho",), "unknown game 'shisensho', did you mean 'shisen_sho'?"),
        (("shisen_sho", "papr"), "unknown level of shisen_sho 'papr', did you mean 'paper'?"),
        (("_paths",), "unknown game '_paths'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_one(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_game(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("game_id", game_ids())
def test_every_game_is_a_gymnasium_environment(game_id: str) -> None:
    env = gymnasium.make(env_id(game_id), level="tiny")
    assert env.unwrapped.game.id == game_id


def test_the_import_loads_no_game_no_drawing_and_no_ray() -> None:
    program = "import sys, vlmgym_envs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "vlmgym_envs.gym" in loaded
    assert not {"ray", "torch", "PIL", "vlmgym_envs.games.shisen_sho"} & set(loaded)
