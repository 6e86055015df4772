"""Decides what is asked in the benchmark of rollouts: heavy-tailed response lengths, boards that no answer changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from ray.rllib.utils.typing import MultiAgentDict

from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group import GroupPlayer
from vlmgym_envs.registry import make_game
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.processing import VLMProcessor, load_vlm, quiet_transformers
from vlmgym_policies.tiny import TinySize, make_tiny_vlm

GAME, LEVEL = "shisen_sho", "tiny"
NUM_TURNS = 2
MIN_TOKENS, MEDIAN_TOKENS, MAX_TOKENS = 8, 64, 1024
SIGMA = 1.3
"""Lengths are lognormal, cut at both ends: e^(SIGMA^2 / 2) makes a mean of 130 of the median, an eighth of the most."""
SIZE = TinySize(num_heads=1)
"""Little to read of the tokens before: a further row costs little beside what a step costs, as with a large model on a
GPU, whose steps read all weights."""
END_MARGIN = 8.0
"""What the first number of each embedding is, and its negative in that of the end token."""
NUM_RESPONSES = 200


class Request(NamedTuple):
    """One call of an engine."""

    prompt: Prompt
    sampling: Sampling


class Answer(NamedTuple):
    """What became of a request. asked_s, finished_s: of the monotonic clock, which all processes of a machine share."""

    asked_s: float
    finished_s: float
    seed: int
    num_tokens: int


Branch = tuple[Request, ...]
"""The requests of one branch, a turn each: every one is asked when the one before it is answered."""


def response_tokens(seed: int) -> int:
    """How long the response to the request with this `Sampling.seed` is, in MIN_TOKENS..MAX_TOKENS."""
    drawn = MEDIAN_TOKENS * np.exp(SIGMA * np.random.default_rng(seed).standard_normal())
    return int(np.clip(round(drawn), MIN_TOKENS, MAX_TOKENS))


def with_drawn_length(sampling: Sampling) -> Sampling:
    """The same, but for a response of `response_tokens`."""
    return replace(sampling, max_tokens=response_tokens(sampling.seed))


class RolloutEnv(GameGroupEnv):
    """Reads and scores answers, but plays a random legal move in place of each, and pays +1 or -1 at random.

    So the pictures change from turn to turn as they do under a good policy, and what is asked does not depend on what a
    model answers. A move that would end the game is refused instead: every branch lasts `num_turns` turns.

    deal: which boards are dealt for the same seeds; with its own, no measurement finds another's in an engine's caches.
    """

    deal = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[MultiAgentDict, MultiAgentDict]:
        entropy = np.random.SeedSequence([self.deal, seed or 0])
        board, *branches = entropy.spawn(1 + len(self.possible_agents))
        self._rngs = dict(zip(self.possible_agents, map(np.random.default_rng, branches), strict=True))
        return super().reset(seed=int(board.generate_state(1)[0]), options=options)

    def step(
        self, action_dict: MultiAgentDict
    ) -> tuple[MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict, MultiAgentDict]:
        observations, _, *others = super().step({agent: self._move(agent) for agent in action_dict})
        rewards = {agent: float(self._rngs[agent].choice([1.0, -1.0])) for agent in action_dict}
        return observations, rewards, *others

    def _move(self, agent: Any) -> str:
        state = self.states[agent]
        action = self.game.teachers["legal_random"](state, self._rngs[agent])
        return "" if self.game.step(state, action).terminated else self.game.format_answer(action)


def env_config(group_size: int) -> dict[str, Any]:
    return {"game": GAME, "level": LEVEL, "group_size": group_size, "num_turns": NUM_TURNS, "start": "fresh"}


def make_endless_vlm(path: Path, size: TinySize = SIZE) -> Path:
    """A VLM of that size with random weights that ends no response by itself.

    Embeddings are tied: all states have the first number of the embeddings in common, so only the end token's score is
    far below the others.
    """
    game = make_game(GAME, LEVEL)
    demonstrator, rng = Demonstrator(game, {"legal_random": 1.0}), np.random.default_rng(0)
    responses = [demonstrator.demonstrate(game.init(seed), rng) for seed in range(NUM_RESPONSES)]
    make_tiny_vlm(path, prompts=[game.prompt], responses=responses, seed=0, size=size)
    import torch

    model: Any = load_vlm(str(path), torch.float32)
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[:, 0] = END_MARGIN
        for end in VLMProcessor(str(path)).eos_token_ids:
            embeddings[end] = 0.0
            embeddings[end, 0] = -END_MARGIN
    with quiet_transformers():
        model.save_pretrained(path)
    return path


def branches_of(config: Any, deal: int, num_groups: int) -> list[Branch]:
    """What the platform asks for the first `num_groups` groups, in their order, as `GroupPlayer` asks it."""
    env = RolloutEnv(config.env_config)
    env.deal = deal
    thread = EnvThread(env)
    branches: list[Branch] = []
    for group_id in range(num_groups):
        recorder = _Recorder()
        player = GroupPlayer(config, thread, recorder, group_id, True, lambda *_: None)
        asyncio.run(player.play())
        branches += recorder.branches(config.env_config["group_size"])
    thread.close()
    return branches


class _Recorder:
    """Stands where an engine's handle stands; answers nothing."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self.generate = SimpleNamespace(remote=self._generate)

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self._requests.append(Request(prompts[0], with_drawn_length(sampling)))
        nothing = np.zeros(0, dtype=np.int32)
        return [Completion("", nothing, nothing, np.zeros(0, dtype=np.float32), "length", 0)]

    def branches(self, group_size: int) -> Iterator[Branch]:
        """Answered at once, the branches of a group take their turns one after the other, in order."""
        return (tuple(self._requests[branch::group_size]) for branch in range(group_size))
