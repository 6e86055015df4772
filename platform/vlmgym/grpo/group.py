"""One group: all its branches played at once against an engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from vlmgym.grpo.batching import (
    IMAGE_DIGESTS,
    NUM_CUT_TURNS,
    PROMPT_IDS,
    RESPONSE_IDS,
    RESPONSE_LOGPROBS,
    WEIGHTS_VERSION,
)
from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group_stats import BEST_ANSWER, SCORE
from vlmgym.grpo.tasks import FIRST_GAME, Task
from vlmgym_policies.answers import parse_response
from vlmgym_policies.engine import Completion, Prompt, Sampling
from vlmgym_policies.history import Turn
from vlmgym_policies.insight import Regrets
from vlmgym_policies.prompting import ask
from vlmgym_policies.scoring import RewardWeights

OnEpisode = Callable[[str, MultiAgentEpisode], None]


class GroupPlayer:
    """Plays group `group_id` of a run in `environment`, answers from `engine`.

    What the group is depends on the run's seed, `group_id` and `task` alone. Coroutines live here and not on the env
    runner, whose Ray actor one of them would turn into an asyncio actor. `on_episode(name, episode)` makes RLlib's
    callbacks; `on_branch_end()` is called as each branch ends.
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
        task: Task = FIRST_GAME,
    ) -> None:
        self._environment = environment
        self._env = environment.env
        self._config = config
        self._engine = engine
        self._on_episode = on_episode
        self._on_branch_end = on_branch_end
        self._task = task
        self._temperature = config.temperature if explore else 0.0
        self._max_tokens = config.max_tokens
        self._entropy = [config.seed or 0, int(config.in_evaluation), group_id]
        self._prompts: dict[int, tuple[Any, Prompt]] = {}
        self._asked: dict[str, Prompt] = {}
        self._memories: defaultdict[str, deque[Turn]] = defaultdict(config.history.memory)
        self._episode = MultiAgentEpisode(agent_to_module_mapping_fn=config.policy_mapping_fn)

    async def play(self) -> MultiAgentEpisode:
        task, timeout_s = self._task, self._config.env_reset_timeout_s
        options = {"game": task.game, "knobs": task.knobs}
        observations, infos = await self._environment.call(
            "reset", timeout_s, seed=_seed(self._entropy), options=options
        )
        self._weights = RewardWeights.of(self._env.game.id, **self._config.rewards_of_game(task.game))
        self._regrets = Regrets(self._env.game)
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
        score = score._replace(regret=self._regrets(state, response.answer))
        best_answer = self._regrets.best_answer(state)
        done = terminated[agent] or truncated[agent]
        if done:
            self._alive.discard(agent)
        over = not self._alive
        self._memories[agent].append(Turn(self._asked[agent], completion.text))
        prompt = self._asked[agent] if done else self._prompt(agent, observations[agent])
        self._episode.add_env_step(
            observations={agent: prompt},
            actions={agent: completion.text},
            rewards={agent: score.reward},
            infos={agent: {**info, SCORE: score, BEST_ANSWER: best_answer, "finish_reason": completion.finish_reason}},
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
        """What to ask, after as much of the branch's earlier turns as the configured history keeps."""
        self._asked[agent] = asked = self._question(observation, self._env.states[agent])
        return self._config.history.prompt(self._memories[agent], asked)

    def _question(self, observation: dict[str, Any], state: Any) -> Prompt:
        """Siblings that share a picture share a prompt; the picture is kept so that its id stays its own."""
        image = observation["image"]
        if id(image) not in self._prompts:
            self._prompts[id(image)] = image, ask(self._env.game, state, self._config.observation, image)
        return self._prompts[id(image)][1]


def _seed(entropy: Sequence[int]) -> int:
    """A seed below 2**63 that depends on all of `entropy`."""
    return int(np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)[0] >> 1)
