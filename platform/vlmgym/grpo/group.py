"""One group: all its branches played at once against an engine, then summarised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
)

from vlmgym.grpo.batching import (
    IMAGE_DIGESTS,
    NUM_CUT_TURNS,
    PROMPT_IDS,
    RESPONSE_IDS,
    RESPONSE_LOGPROBS,
    WEIGHTS_VERSION,
)
from vlmgym.grpo.env_thread import EnvThread
from vlmgym_policies.answers import parse_response
from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.prompting import make_prompt
from vlmgym_policies.scoring import RewardWeights, Score

SCORE = "score"
OnEpisode = Callable[[str, MultiAgentEpisode], None]


class GroupStats(NamedTuple):
    """Means over the decisions of one group, except where named otherwise."""

    return_mean: float
    return_std: float
    game_reward: float
    legal_move_rate: float
    format_rate: float
    perception_cells: float
    perception_board: float
    response_tokens: float
    truncated_rate: float
    cut_prompt_rate: float
    num_decisions: int
    weights_version: int


class GroupPlayer:
    """Plays group `group_id` of a run in `environment`, answers from `engine`.

    What the group is depends on the run's seed and `group_id` alone. Coroutines live here and not on the env runner,
    whose Ray actor one of them would turn into an asyncio actor. `on_episode(name, episode)` makes RLlib's callbacks;
    `on_branch_end()` is called as each branch ends.
    """

    def __init__(
        self,
        config: Any,
        environment: EnvThread,
        engine: Any,
        group_id: int,
        explore: bool,
        on_episode: OnEpisode,
        on_branch_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._environment = environment
        self._env = env = environment.env
        self._config = config
        self._engine = engine
        self._on_episode = on_episode
        self._on_branch_end = on_branch_end
        self._weights = RewardWeights.of(env.game.id, **config.reward_weights)
        self._temperature = config.temperature if explore else 0.0
        self._max_tokens = config.max_tokens
        self._entropy = [config.seed or 0, int(config.in_evaluation), group_id]
        self._prompts: dict[int, tuple[Any, Prompt]] = {}
        self._episode = MultiAgentEpisode(agent_to_module_mapping_fn=config.policy_mapping_fn)

    async def play(self) -> MultiAgentEpisode:
        timeout_s = self._config.env_reset_timeout_s
        observations, infos = await self._environment.call("reset", timeout_s, seed=_seed(self._entropy))
        start = {agent: self._prompt(agent, observations[agent]) for agent in observations}
        self._on_episode("on_episode_created", self._episode)
        self._episode.add_env_reset(observations=start, infos=infos)
        self._on_episode("on_episode_start", self._episode)
        self._alive = set(start)
        branches = [asyncio.ensure_future(self._play_branch(agent, prompt)) for agent, prompt in start.items()]
        try:
            await asyncio.gather(*branches)
        finally:
            for branch in branches:
                branch.cancel()
        self._on_episode("on_episode_end", self._episode)
        return self._episode

    async def _play_branch(self, agent: str, prompt: Prompt) -> None:
        turn = 0
        while agent in self._alive:
            seed = _seed([*self._entropy, self._env.possible_agents.index(agent), turn])
            sampling = Sampling(temperature=self._temperature, max_tokens=self._max_tokens, seed=seed)
            (completion,) = await self._generate(prompt, sampling)
            prompt = await self._step(agent, completion)
            turn += 1
        self._on_branch_end()

    async def _generate(self, prompt: Prompt, sampling: Sampling) -> Sequence[Completion]:
        timeout_s = self._config.generation_timeout_s
        answer = asyncio.ensure_future(self._engine.generate.remote([prompt], sampling))
        try:
            completions: Sequence[Completion] = await asyncio.wait_for(answer, timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"generation took longer than {timeout_s:g} s") from error
        return completions

    async def _step(self, agent: str, completion: Completion) -> Prompt:
        """Plays one answer, records the step with its score, and returns the next prompt."""
        state = self._env.states[agent]
        response = parse_response(completion.text)
        answers = {agent: response.answer or ""}
        result = await self._environment.call("step", self._config.env_step_timeout_s, answers)
        observations, rewards, terminated, truncated, infos = result
        info = infos[agent]
        score = self._weights.score(self._env.game, state, response, rewards[agent], info["legal"])
        done = terminated[agent] or truncated[agent]
        if done:
            self._alive.discard(agent)
        over = not self._alive
        prompt = self._prompt(agent, observations[agent])
        self._episode.add_env_step(
            observations={agent: prompt},
            actions={agent: completion.text},
            rewards={agent: score.reward},
            infos={agent: {**info, SCORE: score, "finish_reason": completion.finish_reason}},
            terminateds={agent: terminated[agent], "__all__": over},
            truncateds={agent: truncated[agent], "__all__": False},
            extra_model_outputs={
                agent: {
                    PROMPT_IDS: completion.prompt_token_ids,
                    RESPONSE_IDS: completion.token_ids,
                    RESPONSE_LOGPROBS: completion.logprobs,
                    WEIGHTS_VERSION: completion.weights_version,
                    IMAGE_DIGESTS: completion.image_digests,
                    NUM_CUT_TURNS: completion.num_cut_turns,
                }
            },
        )
        self._on_episode("on_episode_step", self._episode)
        return prompt

    def _prompt(self, agent: str, observation: dict[str, Any]) -> Prompt:
        """Siblings that share a picture share a prompt; the picture is kept so that its id stays its own."""
        image = observation["image"]
        if id(image) not in self._prompts:
            self._prompts[id(image)] = image, make_prompt(observation["prompt"], image, self._env.states[agent])
        return self._prompts[id(image)][1]


def group_stats(episode: MultiAgentEpisode) -> GroupStats:
    """What happened in a group, read from its episode."""
    branches = list(episode.agent_episodes.values())
    returns = [branch.get_return() for branch in branches]
    infos = [info for branch in branches for info in branch.get_infos(slice(1, None))]
    scores: list[Score] = [info[SCORE] for info in infos]
    lengths = [len(ids) for branch in branches for ids in branch.extra_model_outputs[RESPONSE_IDS]]
    versions = [version for branch in branches for version in branch.extra_model_outputs[WEIGHTS_VERSION]]
    return GroupStats(
        return_mean=float(np.mean(returns)),
        return_std=float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
        game_reward=float(np.mean([s.game_reward for s in scores])),
        legal_move_rate=float(np.mean([s.legal for s in scores])),
        format_rate=float(np.mean([s.well_formed for s in scores])),
        perception_cells=float(np.mean([s.cells for s in scores])),
        perception_board=float(np.mean([s.board for s in scores])),
        response_tokens=float(np.mean(lengths)),
        truncated_rate=float(np.mean([info["finish_reason"] == "length" for info in infos])),
        cut_prompt_rate=float(
            np.mean([cut > 0 for branch in branches for cut in branch.extra_model_outputs[NUM_CUT_TURNS]])
        ),
        num_decisions=len(scores),
        weights_version=min(versions),
    )


def log_group_stats(metrics: Any, groups: Sequence[GroupStats], *, key: str | None) -> None:
    """Logs means over groups and counts, under RLlib's names where it has one."""
    names = ("game_reward", "legal_move_rate", "format_rate", "perception_cells", "perception_board")
    values = {name: np.mean([getattr(g, name) for g in groups]) for name in (*names, "response_tokens")}
    values |= {name: np.mean([getattr(g, name) for g in groups]) for name in ("truncated_rate", "cut_prompt_rate")}
    values["group_return_std"] = np.mean([g.return_std for g in groups])
    values["zero_std_fraction"] = np.mean([g.return_std == 0.0 for g in groups])
    values[EPISODE_RETURN_MEAN] = np.mean([g.return_mean for g in groups])
    values[EPISODE_LEN_MEAN] = np.mean([g.num_decisions for g in groups])
    metrics.log_dict({name: float(value) for name, value in values.items()}, key=key, window=1)
    num_steps = sum(g.num_decisions for g in groups)
    metrics.log_dict({NUM_EPISODES: len(groups), NUM_ENV_STEPS_SAMPLED: num_steps}, key=key, reduce="sum")
    lifetime = (key, NUM_ENV_STEPS_SAMPLED_LIFETIME) if key else NUM_ENV_STEPS_SAMPLED_LIFETIME
    metrics.log_value(lifetime, num_steps, reduce="lifetime_sum")


def _seed(entropy: Sequence[int]) -> int:
    """A seed below 2**63 that depends on all of `entropy`."""
    return int(np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)[0] >> 1)
