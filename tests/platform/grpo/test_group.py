"""One group, played against a scripted engine without Ray's actors."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

from vlmgym.grpo.config import policy_for
from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group import GroupPlayer
from vlmgym.grpo.group_stats import SCORE, group_stats
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.answers import parse_response, write_response
from vlmgym_policies.engines.scripted import ScriptedEngine
from vlmgym_policies.history import History


class LocalHandle:
    """Stands where an actor handle stands: `engine.generate.remote(...)` gives an awaitable."""

    def __init__(self, writer):
        self._engine = ScriptedEngine(writer)
        self.seeds = []
        self.generate = SimpleNamespace(remote=self._generate)

    async def _generate(self, prompts, sampling):
        self.seeds.append(sampling.seed)
        return await self._engine.generate(prompts, sampling)


def config(**changes):
    values = {
        "observation": "picture",
        "history": History(),
        "seed": 3,
        "in_evaluation": False,
        "temperature": 1.0,
        "max_tokens": 64,
        "rewards_of_game": lambda number: {},
    }
    values |= {"env_step_timeout_s": 10.0, "env_reset_timeout_s": 10.0, "generation_timeout_s": 10.0}
    return SimpleNamespace(**{**values, "policy_mapping_fn": policy_for, **changes})


def play(writer, *, group_id=0, explore=True, events=None, env=None, timeouts=None, **env_config):
    env = env or GameGroupEnv({"game": "shisen_sho", "level": "tiny", "group_size": 3, **env_config})
    engine = LocalHandle(writer)
    on_episode = lambda name, episode: events.append(name) if events is not None else None  # noqa: E731
    player = GroupPlayer(config(**(timeouts or {})), EnvThread(env), engine, group_id, explore, on_episode)
    return asyncio.run(player.play()), env, engine


def solver(game):
    def write(prompt, rng):
        action = game.solve(prompt.state)
        return write_response(game.describe(prompt.state), "", game.format_answer(action))

    return write


def test_all_branches_start_in_one_state_and_share_one_picture(game):
    episode, _, engine = play(solver(game))
    prompts = [branch.get_observations(0) for branch in episode.agent_episodes.values()]
    assert len(prompts) == 3 and all(prompt is prompts[0] for prompt in prompts)
    assert len(set(engine.seeds)) == 3


@pytest.mark.parametrize(("observation", "num_pictures"), [("text", 0), ("oracle", 1)])
def test_prompts_show_what_the_config_says(game, observation, num_pictures):
    episode, _, _ = play(solver(game), timeouts={"observation": observation})
    prompt = next(iter(episode.agent_episodes.values())).get_observations(0)
    assert len(prompt.images) == num_pictures
    assert prompt.messages[-1].text.endswith(game.describe(prompt.state))


def test_rewards_add_up(game):
    """Legal (+1) and well formed (+1) against illegal (-1), no tags (0): 2 and -1 under the paper's weights."""
    answers = iter(["solve", "nonsense", "solve"])
    solve = solver(game)
    episode, _, _ = play(lambda prompt, rng: solve(prompt, rng) if next(answers) == "solve" else "nonsense")
    rewards = sorted(branch.get_return() for branch in episode.agent_episodes.values())
    assert rewards == [-1.0, 2.0, 2.0]
    stats = group_stats(episode)
    rates = stats.tally.rates
    assert rates["legal_move_rate"] == rates["format_rate"] == rates["perception_board"] == pytest.approx(2 / 3)
    assert stats.return_mean == pytest.approx(1.0)
    assert stats.return_std == pytest.approx(np.sqrt(3.0))


def test_a_wrong_board_costs_perception_only(game):
    def write(prompt, rng):
        text = solver(game)(prompt, rng)
        return text.replace(" - ", " Red circle ", 1) if " - " in text else text.replace("|", "||", 1)

    episode, _, _ = play(write)
    for branch in episode.agent_episodes.values():
        score = branch.get_infos(1)[SCORE]
        assert score.legal and score.well_formed and not score.board and 0 < score.cells < 1


def test_the_group_id_decides_the_start_whatever_was_played_before(game):
    first, env, _ = play(solver(game), group_id=5)
    again, _, _ = play(solver(game), group_id=5, env=env)
    other, _, _ = play(solver(game), group_id=6)
    state = lambda episode: episode.agent_episodes["branch_0"].get_observations(0).state  # noqa: E731
    assert state(first) == state(again) != state(other)


def test_branches_of_many_turns_end_on_their_own(game):
    """Branch 0 plays on with the solver; the others are refused from their second turn on."""
    turns = {}

    def write(prompt, rng):
        turn = turns.setdefault(prompt.state.num_moves, 0)
        return solver(game)(prompt, rng) if turn == 0 else "no"

    events = []
    episode, _, _ = play(write, num_turns=3, start="fresh", events=events)
    lengths = [len(branch) for branch in episode.agent_episodes.values()]
    assert all(1 <= length <= 3 for length in lengths)
    assert events[:2] == ["on_episode_created", "on_episode_start"] and events[-1] == "on_episode_end"
    assert events.count("on_episode_step") == sum(lengths)
    for branch in episode.agent_episodes.values():
        asked = [parse_response(text).answer for text in branch.get_actions()]
        assert len(asked) == len(branch)
        assert branch.is_done


def test_greedy_groups_ask_at_temperature_zero(game):
    asked = []
    engine = LocalHandle(solver(game))
    generate = engine._generate

    async def spy(prompts, sampling):
        asked.append(sampling.temperature)
        return await generate(prompts, sampling)

    engine.generate = SimpleNamespace(remote=spy)
    env = GameGroupEnv({"game": "shisen_sho", "level": "tiny", "group_size": 2})
    asyncio.run(GroupPlayer(config(), EnvThread(env), engine, 0, False, lambda *_: None).play())
    assert asked == [0.0, 0.0]


class HangingEnv(GameGroupEnv):
    def __init__(self, config, method):
        super().__init__(config)
        self.method = method

    def reset(self, **kwargs):
        return self.hang("reset") or super().reset(**kwargs)

    def step(self, actions):
        return self.hang("step") or super().step(actions)

    def hang(self, method):
        if method == self.method:
            time.sleep(5.0)


@pytest.mark.parametrize("method", ["reset", "step"])
def test_an_environment_that_hangs_costs_a_time_out(game, method):
    env = HangingEnv({"game": "shisen_sho", "level": "tiny", "group_size": 2}, method)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"env\.{method} took longer than 0\.2 s"):
        play(solver(game), env=env, timeouts={f"env_{method}_timeout_s": 0.2})
    assert time.monotonic() - started < 4.0


def test_an_engine_that_hangs_costs_a_time_out():
    class HangingHandle(LocalHandle):
        async def _generate(self, prompts, sampling):
            await asyncio.sleep(5.0)

    env = EnvThread(GameGroupEnv({"game": "shisen_sho", "level": "tiny", "group_size": 2}))
    player = GroupPlayer(config(generation_timeout_s=0.2), env, HangingHandle(None), 0, True, lambda *_: None)
    with pytest.raises(TimeoutError, match=r"generation took longer than 0\.2 s"):
        asyncio.run(player.play())


def test_a_branch_that_fails_ends_the_others(game):
    env = GameGroupEnv({"game": "shisen_sho", "level": "tiny", "group_size": 3, "num_turns": 50})
    calls = []

    def write(prompt, rng):
        calls.append(prompt)
        if len(calls) == 4:
            raise OSError("the engine is gone")
        return "nothing"

    with pytest.raises(OSError, match="the engine is gone"):
        play(write, env=env)
    assert len(calls) < 12
