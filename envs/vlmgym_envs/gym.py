"""Decides how a game is played through Gymnasium: spaces, seeding, the time limit and what an illegal action costs.

>>> import gymnasium, vlmgym_envs
>>> env = gymnasium.make("vlmgym/ShisenSho-v0", level="tiny", max_steps=20)
>>> image, info = env.reset(seed=7)
>>> image, reward, terminated, truncated, info = env.step(env.action_space.sample())
"""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vlmgym_envs.registry import game_ids, make_game
from vlmgym_envs.splits import Split, Start, check_split, reset_state

Image = NDArray[np.uint8]


class VLMGymEnv(gym.Env[Image, Any]):
    """One game, one player.

    Observation: the picture, uint8 [H, W, 3], read-only: a refused action repeats the array of the step before, since
    nothing changed. Action: an element of the game's `action_space`.
    Reward: the game's raw reward; `illegal_reward` for a refused action, which leaves the state as it is.
    Ends: terminated with the game, truncated after `max_steps` actions.
    Info: "text", the exact perception text; "state"; "prompt"; "refused", a reason or None; and what the game adds.

    start, split, held_out: as in `draw_start`. overrides: knobs of the level.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (as in gymnasium.Env)

    def __init__(
        self,
        game_id: str,
        level: str = "paper",
        start: Start = "fresh",
        split: Split = "all",
        held_out: float = 0.1,
        illegal_reward: float = -1.0,
        max_steps: int = 100,
        render_mode: str | None = None,
        **overrides: object,
    ) -> None:
        check_split(start, split, held_out)
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.game = make_game(game_id, level, **overrides)
        self.render_mode = render_mode
        self._prompt = self.game.prompt
        self.action_space = self.game.action_space
        self.observation_space = gym.spaces.Box(0, 255, self.game.image_shape, np.uint8)
        self._start: Start = start
        self._split: Split = split
        self._held_out = held_out
        self._illegal_reward = illegal_reward
        self._max_steps = max_steps
        self._num_steps = 0
        self._state: Any = None
        self._image: Image
        self._text: str

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        """Starts at draw_start(game, seed, ...). Without a seed, continues the stream that the last seed began.

        options: {"state_text": text} starts at `Game.from_text` instead.
        """
        super().reset(seed=seed)
        start_seed = int(self.np_random.integers(2**63)) if seed is None else seed
        self._show(reset_state(self.game, start_seed, options, self._start, self._split, self._held_out))
        self._num_steps = 0
        return self._image, self._info(None)

    def step(self, action: Any) -> tuple[Image, SupportsFloat, bool, bool, dict[str, Any]]:
        step = self.game.step(self._state, self.game.from_space(action))
        if step.state is not self._state:
            self._show(step.state)
        self._num_steps += 1
        reward = self._illegal_reward if step.refused else step.reward
        truncated = self._num_steps >= self._max_steps
        info = {**step.info, **self._info(step.refused)}
        return self._image, reward, step.terminated, truncated, info

    def render(self) -> Image | None:  # type: ignore[override]
        """The last observation in mode "rgb_array", None without a mode."""
        return None if self.render_mode is None else self._image

    def _show(self, state: Any) -> None:
        self._state = state
        self._image = self.game.render(state)
        self._image.flags.writeable = False
        self._text = self.game.describe(state)

    def _info(self, refused: str | None) -> dict[str, Any]:
        return {"text": self._text, "state": self._state, "prompt": self._prompt, "refused": refused}


def env_id(game_id: str) -> str:
    """The Gymnasium id of a game: "shisen_sho" is "vlmgym/ShisenSho-v0"."""
    return f"vlmgym/{''.join(word.capitalize() for word in game_id.split('_'))}-v0"


def register_envs() -> None:
    """Registers every game with Gymnasium; `import vlmgym_envs` calls it. Loads no game and may be called again."""
    for game_id in game_ids():
        if env_id(game_id) not in gym.registry:
            gym.register(env_id(game_id), entry_point="vlmgym_envs.gym:VLMGymEnv", kwargs={"game_id": game_id})
