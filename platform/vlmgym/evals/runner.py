"""Puts one policy before many states and scores each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from vlmgym_envs.core import Game
from vlmgym_envs.splits import Start, draw_start
from vlmgym_policies.engine import Completion, Engine, Prompt, Sampling
from vlmgym_policies.insight import Regrets
from vlmgym_policies.prompting import Observation, ask
from vlmgym_policies.scoring import RewardWeights, Score, judge

MAX_STALE_DRAWS = 1000
"""Draws in a row that give no new state before a level counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One answered and scored state."""

    prompt: Prompt
    completion: Completion
    score: Score


def held_out_states(game: Game[Any, Any, Any], num: int, *, start: Start, held_out: float, seed: int) -> list[Any]:
    """`num` different states of the held-out split, which training never draws.

    Raises:
        ValueError: the level has not that many, as far as `MAX_STALE_DRAWS` draws in a row tell.
    """
    states: dict[bytes, Any] = {}
    rng = np.random.default_rng(seed)
    stale = 0
    while len(states) < num and stale < MAX_STALE_DRAWS:
        known = len(states)
        state = draw_start(game, int(rng.integers(2**62)), start, "held_out", held_out)
        states.setdefault(game.key(state), state)
        stale = stale + 1 if len(states) == known else 0
    if len(states) < num:
        raise ValueError(f"evaluation.num_states must be at most {len(states)} at this level, got {num}")
    return list(states.values())


def decide(
    engines: Sequence[Any],
    game: Game[Any, Any, Any],
    states: Sequence[Any],
    sampling: Sampling,
    weights: RewardWeights,
    regrets: Regrets | None = None,
    observation: Observation = "picture",
) -> list[Decision]:
    """One decision per state, in order. `engines`: local engines or handles of engine actors; they share the work.

    regrets: of the game, where decisions are to be held against its solver.
    """
    prompts = [ask(game, state, observation) for state in states]
    completions = _generate(engines, prompts, sampling)
    return [
        Decision(prompt, completion, judge(game, prompt.state, completion.text, weights, regrets))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _generate(engines: Sequence[Any], prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
    """Prompt i of the list goes to engine i mod n; each share draws from a seed of its own."""
    shares = [prompts[i :: len(engines)] for i in range(len(engines))]
    samplings = [replace(sampling, seed=sampling.seed + i) for i in range(len(engines))]
    answers = [_ask(*call) for call in zip(engines, shares, samplings, strict=True)]
    answers = [ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in answers]
    return [answers[i % len(engines)][i // len(engines)] for i in range(len(prompts))]


def _ask(engine: Any, prompts: Sequence[Prompt], sampling: Sampling) -> Any:
    if isinstance(engine, ray.actor.ActorHandle):
        return engine.generate.remote(prompts, sampling)
    local: Engine = engine
    return asyncio.run(local.generate(prompts, sampling))
