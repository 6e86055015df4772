"""Decides how a group of answers is played through RLlib: one multi-agent episode is one GRPO group."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from string import ascii_letters, digits, punctuation
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.typing import AgentID, MultiAgentDict

from vlmgym_envs.core import Game, Step
from vlmgym_envs.names import unknown_name
from vlmgym_envs.registry import make_game
from vlmgym_envs.splits import Split, Start, check_split, reset_state

CHARSET = ascii_letters + digits + punctuation + " \n"
MAX_ANSWER_CHARS = 1024

Reward = Literal["progress", "legal", "raw"]


@dataclass(frozen=True, kw_only=True)
class GroupEnvConfig:
    """What `env_config` of an RLlib job may hold. start, split, held_out: as in `draw_start`.

    reward: "progress" pays `success_reward` for an action that the game itself rewards, "legal" for any legal action,
    each `failure_reward` otherwise; "raw" pays the game's own reward, and `failure_reward` for a refused answer.
    The default, +1 and -1 for progress, is the game reward of G1 (arXiv 2505.13426): 2048 pays for a merge only.
    """

    game: str
    level: str = "paper"
    overrides: Mapping[str, object] = field(default_factory=dict)
    group_size: int = 5
    num_turns: int = 1
    start: Start = "mid_game"
    split: Split = "train"
    held_out: float = 0.1
    reward: Reward = "progress"
    success_reward: float = 1.0
    failure_reward: float = -1.0

    def __post_init__(self) -> None:
        check_split(self.start, self.split, self.held_out)
        for name in ("group_size", "num_turns"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.reward not in get_args(Reward):
            raise unknown_name("reward", self.reward, get_args(Reward))

    @classmethod
    def mixture(cls, config: Mapping[str, Any]) -> tuple["GroupEnvConfig", ...]:
        """One per game. {"games": [...]} lists what differs from game to game; the other keys hold for all of them.

        Without "games", the one game of `from_dict`. Errors: as there, and ValueError for groups of several sizes.
        """
        common = {key: value for key, value in config.items() if key != "games"}
        configs = tuple(cls.from_dict({**common, **game}) for game in config.get("games", ({},)))
        sizes = sorted({of_game.group_size for of_game in configs})
        if len(sizes) != 1:
            raise ValueError(f"games must not be empty and have one group_size, got {sizes}")
        return configs

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "GroupEnvConfig":
        """Errors: ValueError for an unknown key, with the nearest known one, and for a missing game."""
        known = [spec.name for spec in fields(cls)]
        for key in config:
            if key not in known:
                raise unknown_name("env_config key", key, known)
        if "game" not in config:
            raise ValueError("game is required in env_config")
        return cls(**config)

    def make_game(self, **knobs: object) -> Game[Any, Any, Any]:
        """The game at its level, overrides applied, and `knobs` over them."""
        return make_game(self.game, self.level, **{**self.overrides, **knobs})

    def reward_of(self, step: Step[Any]) -> float:
        """What an answer pays that led to `step`."""
        if step.refused is not None:
            return self.failure_reward
        if self.reward == "raw":
            return step.reward
        success = self.reward == "legal" or step.reward > 0
        return self.success_reward if success else self.failure_reward


class GameGroupEnv(MultiAgentEnv):
    """Agents branch_0, branch_1, ... start in one state; each plays its own branch of it, at its own pace.

    Observation: {"image": uint8 [H, W, 3], "prompt": str}. Action: the answer text, what stands inside <answer>.
    Branches in the same state share one read-only picture. A branch terminates with its game and is truncated after
    `num_turns` answers; a refused answer costs a turn and leaves the state as it is. The observation that ends a branch
    repeats the one that the last answer was given to, since nobody looks at it.
    Infos: "state", the one after the answer; "refused", a reason or None; "legal"; "raw_reward", the game's own; "won",
    as in `Step`. Those of a reset: "state", "game" and "level", by name, and "game_number", its place in `configs`.

    configs: one per game that this environment can play; each reset plays one of them, so spaces may change then.
    game, config: the present one, read-only. states: the current state of each branch, by agent.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.configs = GroupEnvConfig.mixture(config)
        self._games: dict[Any, Game[Any, Any, Any]] = {}
        self.states: MultiAgentDict = {}
        self.possible_agents = [f"branch_{number}" for number in range(self.configs[0].group_size)]
        self.agents = list(self.possible_agents)
        self._take_game(0, {})
        answer_space = gym.spaces.Text(MAX_ANSWER_CHARS, min_length=0, charset=CHARSET)
        self.action_spaces = dict.fromkeys(self.possible_agents, answer_space)
        self._ended: set[AgentID] = set()
        self._num_turns: dict[AgentID, int] = {}
        self._images: dict[Any, NDArray[np.uint8]] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[MultiAgentDict, MultiAgentDict]:
        """Starts at draw_start(game, seed, ...). Without a seed, continues the stream that the last seed began.

        options: {"game": number} plays that game of `configs`, else the first one; {"knobs": {...}} changes its level;
        {"state_text": text} starts at `Game.from_text` instead.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        number = options.pop("game", 0)
        self._take_game(number, options.pop("knobs", {}))
        config = self.config
        start_seed = int(self.np_random.integers(2**63)) if seed is None else seed
        start = reset_state(self.game, start_seed, options, config.start, config.split, config.held_out)
        self.agents = list(self.possible_agents)
        self.states = dict.fromkeys(self.agents, start)
        self._ended = set()
        self._num_turns = dict.fromkeys(self.agents, 0)
        self._images = {}
        observations = {agent: self._observe(start) for agent in self.agents}
        about = {"state": start, "game": self.game.id, "level": self.game.level_name, "game_number": number}
        infos = {agent: dict(about) for agent in self.agents}
        return observations, infos

    def step(
        self, action_dict: MultiAgentDict
    ) -> tuple[MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict]:
        """Plays the answers of whichever branches are ready. Terminates "__all__" once every branch has ended.

        Errors: ValueError, before any answer is played, for a branch that has ended or is not of this group.
        """
        # RLlib checks the last observation of an agent against `agents`, so an ended one leaves a call later.
        self.agents = [agent for agent in self.agents if agent not in self._ended]
        for agent in action_dict.keys() - set(self.agents):
            raise ValueError(f"agent must be one of the running {', '.join(map(str, self.agents))}, got {agent!r}")
        observations: MultiAgentDict = {}
        rewards: MultiAgentDict = {}
        terminateds: MultiAgentDict = {}
        truncateds: MultiAgentDict = {}
        infos: MultiAgentDict = {}
        for agent, answer in action_dict.items():
            before = self.states[agent]
            step = self.game.play(before, answer)
            self.states[agent] = step.state
            self._num_turns[agent] += 1
            terminateds[agent] = step.terminated
            truncateds[agent] = not step.terminated and self._num_turns[agent] == self.config.num_turns
            if terminateds[agent] or truncateds[agent]:
                self._ended.add(agent)
            observations[agent] = self._observe(before if agent in self._ended else step.state)
            rewards[agent] = self.config.reward_of(step)
            infos[agent] = {
                "state": step.state,
                "refused": step.refused,
                "legal": step.refused is None,
                "raw_reward": step.reward,
                "won": step.won,
            }
        terminateds["__all__"] = len(self._ended) == len(self.possible_agents)
        truncateds["__all__"] = False
        return observations, rewards, terminateds, truncateds, infos

    def _take_game(self, number: int, knobs: Mapping[str, object]) -> None:
        """Errors: ValueError for a number that no game has, and for knobs that its level refuses."""
        if number not in range(len(self.configs)):
            raise ValueError(f"game must be in 0..{len(self.configs) - 1}, got {number}")
        self.config = self.configs[number]
        key = number, tuple(sorted(knobs.items()))
        if key not in self._games:
            self._games[key] = self.config.make_game(**knobs)
        self.game = self._games[key]
        self.observation_spaces = dict.fromkeys(self.possible_agents, self._observation_space())

    def _observation_space(self) -> gym.spaces.Dict:
        prompt = self.game.prompt
        return gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, self.game.image_shape, np.uint8),
                "prompt": gym.spaces.Text(len(prompt), charset="".join(sorted({*CHARSET, *prompt}))),
            }
        )

    def _observe(self, state: Any) -> dict[str, Any]:
        if state not in self._images:
            self._images[state] = self.game.render(state)
            self._images[state].flags.writeable = False
        return {"image": self._images[state], "prompt": self.game.prompt}
