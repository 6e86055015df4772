from typing import Any

import numpy as np
import pytest
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from vlmgym_envs import Game
from vlmgym_envs.registry import make_game
from vlmgym_envs.rllib import GameGroupEnv, GroupEnvConfig
from vlmgym_envs.splits import draw_start

EMPTY_ROW = " - | - | - | - "
LAST_PAIR = "\n".join((EMPTY_ROW, " Red circle | - | - | Red circle ", EMPTY_ROW))
LAST_ANSWER = "(1, 0) (1, 3)"


def make_env(**config: Any) -> GameGroupEnv:
    return GameGroupEnv({"game": "shisen_sho", "level": "tiny", "group_size": 3, **config})


def legal_answers(env: GameGroupEnv, agent: str) -> list[str]:
    return [env.game.format_answer(action) for action in env.game.legal_actions(env.states[agent])]


@pytest.mark.parametrize("num_turns", [1, 3])
def test_rllib_finds_no_fault(game: Game[Any, Any, Any], num_turns: int) -> None:
    check_multiagent_environments(
        GameGroupEnv({"game": game.id, "level": game.level_name, "group_size": 2, "num_turns": num_turns})
    )


def test_a_group_starts_in_one_state_and_shares_one_picture() -> None:
    env = make_env()
    observations, infos = env.reset(seed=11)
    start = draw_start(env.game, 11, "mid_game", "train", 0.1)
    assert list(observations) == env.agents == ["branch_0", "branch_1", "branch_2"]
    about = {"state": start, "game": "shisen_sho", "level": "tiny", "game_number": 0}
    assert infos == dict.fromkeys(env.agents, about) and env.states == dict.fromkeys(env.agents, start)
    images = [observation["image"] for observation in observations.values()]
    assert images[0] is images[1] is images[2] and not images[0].flags.writeable
    assert np.array_equal(images[0], env.game.render(start))
    for agent, observation in observations.items():
        assert observation["prompt"] == env.game.prompt
        assert env.get_observation_space(agent).contains(observation)
        assert env.get_action_space(agent).contains("(0, 0) (1, 2)")
        assert env.get_action_space(agent).contains("")


def test_the_same_seed_is_the_same_stream_of_groups() -> None:
    env = make_env()
    starts = [env.reset(seed=s)[1]["branch_0"]["state"] for s in (4, None, None, 4, None, None)]
    assert starts[:3] == starts[3:] and len(set(starts[:3])) == 3


def test_one_turn_scores_each_answer_and_ends_the_group() -> None:
    env = make_env(success_reward=0.5, failure_reward=-2.0)
    first, infos = env.reset(seed=0)
    start = infos["branch_0"]["state"]
    answers = {"branch_0": legal_answers(env, "branch_0")[0], "branch_1": "(0, 0) (0, 0)", "branch_2": "no idea"}
    observations, rewards, terminateds, truncateds, infos = env.step(answers)
    assert rewards == {"branch_0": 0.5, "branch_1": -2.0, "branch_2": -2.0}
    assert terminateds["__all__"] is True
    assert all(terminateds[agent] or truncateds[agent] for agent in answers)
    assert infos["branch_0"]["legal"] is True and infos["branch_0"]["refused"] is None
    assert infos["branch_0"]["raw_reward"] == 1.0 and infos["branch_0"]["state"].num_moves == start.num_moves + 1
    assert infos["branch_1"]["refused"] == "the two cells must differ, got (0, 0) twice"
    assert infos["branch_2"]["refused"] == "expected only whole numbers, got 'no'"
    for agent in ("branch_1", "branch_2"):
        assert infos[agent]["state"] is start and not infos[agent]["legal"] and infos[agent]["raw_reward"] == 0.0
    assert all(observations[agent]["image"] is first[agent]["image"] for agent in answers)


def test_raw_rewards_are_the_games_own() -> None:
    env = make_env(reward="raw", success_reward=7.0, group_size=2)
    env.reset(seed=0)
    _, rewards, *_ = env.step({"branch_0": legal_answers(env, "branch_0")[0], "branch_1": ""})
    assert rewards == {"branch_0": 1.0, "branch_1": -1.0}


def test_branches_play_at_their_own_pace_without_touching_each_other() -> None:
    env = make_env(num_turns=2, start="fresh")
    _, infos = env.reset(seed=1)
    start = infos["branch_0"]["state"]
    observations, rewards, terminateds, truncateds, infos = env.step({"branch_1": legal_answers(env, "branch_1")[0]})
    assert set(observations) == set(rewards) == set(infos) == {"branch_1"}
    assert not terminateds["__all__"] and not truncateds["branch_1"]
    assert env.states["branch_0"] == env.states["branch_2"] == start != env.states["branch_1"]
    assert np.array_equal(observations["branch_1"]["image"], env.game.render(env.states["branch_1"]))
    _, _, terminateds, truncateds, _ = env.step({"branch_1": "(0, 0) (0, 0)", "branch_0": "x"})
    assert truncateds == {"branch_1": True, "branch_0": False, "__all__": False}
    with pytest.raises(ValueError, match="running branch_0, branch_2, got 'branch_1'"):
        env.step({"branch_0": "x", "branch_1": "(0, 0) (0, 1)"})
    assert env.agents == ["branch_0", "branch_2"]
    _, _, terminateds, _, _ = env.step({"branch_0": "x", "branch_2": "x"})
    assert not terminateds["__all__"]
    _, _, terminateds, truncateds, _ = env.step({"branch_2": "x"})
    assert terminateds == {"branch_2": False, "__all__": True} and truncateds["branch_2"]


def test_siblings_that_reach_the_same_state_share_its_picture() -> None:
    env = make_env(num_turns=3, start="fresh")
    env.reset(seed=2)
    first, second = legal_answers(env, "branch_0")[:2]
    observations, *_ = env.step({"branch_0": first, "branch_1": first, "branch_2": second})
    assert observations["branch_0"]["image"] is observations["branch_1"]["image"]
    assert observations["branch_0"]["image"] is not observations["branch_2"]["image"]


def test_a_branch_terminates_with_its_game_and_a_refused_answer_does_not_end_it() -> None:
    env = make_env(num_turns=4)
    _, infos = env.reset(options={"state_text": LAST_PAIR})
    assert env.game.describe(infos["branch_0"]["state"]) == LAST_PAIR
    _, rewards, terminateds, truncateds, _ = env.step({"branch_0": LAST_ANSWER, "branch_1": "?"})
    assert rewards == {"branch_0": 1.0, "branch_1": -1.0}
    assert terminateds == {"branch_0": True, "branch_1": False, "__all__": False}
    assert truncateds == {"branch_0": False, "branch_1": False, "__all__": False}
    _, _, terminateds, _, _ = env.step({"branch_1": LAST_ANSWER, "branch_2": LAST_ANSWER})
    assert terminateds == {"branch_1": True, "branch_2": True, "__all__": True}


def test_an_rllib_episode_records_a_group_of_uneven_branches() -> None:
    env = make_env(num_turns=2)
    observations, infos = env.reset(options={"state_text": LAST_PAIR})
    episode = MultiAgentEpisode(observation_space=env.observation_spaces, action_space=env.action_spaces)
    episode.add_env_reset(observations=observations, infos=infos)
    for answers in ({"branch_0": LAST_ANSWER, "branch_1": "?"}, {"branch_2": "?"}, {"branch_1": "?", "branch_2": "?"}):
        observations, rewards, terminateds, truncateds, infos = env.step(answers)
        episode.add_env_step(observations, answers, rewards, infos, terminateds=terminateds, truncateds=truncateds)
    assert episode.is_done
    played = {agent: (len(single), single.get_return()) for agent, single in episode.agent_episodes.items()}
    assert played == {"branch_0": (1, 1.0), "branch_1": (2, -2.0), "branch_2": (2, -2.0)}
    assert episode.agent_episodes["branch_1"].get_actions(-1) == "?"


def test_the_config_may_come_from_rllib_and_reaches_the_game() -> None:
    context = EnvContext({"game": "shisen_sho", "level": "tiny", "overrides": {"tile_px": 8}}, worker_index=1)
    env = GameGroupEnv(context)
    assert env.config == GroupEnvConfig(game="shisen_sho", level="tiny", overrides={"tile_px": 8})
    assert env.game.image_shape == (24, 32, 3)
    assert len(env.possible_agents) == 5


def test_one_environment_plays_several_games_and_levels() -> None:
    maze = {"game": "maze", "num_turns": 3, "start": "fresh"}
    env = GameGroupEnv({"level": "tiny", "group_size": 2, "games": [{"game": "shisen_sho"}, maze]})
    _, infos = env.reset(seed=3)
    assert (infos["branch_0"]["game"], infos["branch_0"]["game_number"]) == ("shisen_sho", 0)
    observations, infos = env.reset(seed=3, options={"game": 1, "knobs": {"rows": 7}})
    about = {"game": "maze", "level": "tiny[rows=7]", "game_number": 1}
    assert about.items() <= infos["branch_0"].items() and env.config.num_turns == 3
    assert infos["branch_0"]["state"] == draw_start(make_game("maze", "tiny", rows=7), 3, "fresh")
    assert env.get_observation_space("branch_0").contains(observations["branch_0"])
    _, _, _, truncateds, _ = env.step({"branch_0": "?", "branch_1": "?"})
    assert not truncateds["branch_0"], "the limit is that of the game"
    _, infos = env.reset(seed=3, options={"game": 1})
    assert infos["branch_0"]["level"] == "tiny", "knobs are those of one reset"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"games": [], "group_size": 2}, "games must not be empty and have one group_size, got []"),
        ({"games": [{"game": "maze", "group_size": 3}, {"game": "maze"}]}, "have one group_size, got [3, 5]"),
        ({"games": [{"game": "maze"}, {}]}, "game is required in env_config"),
        ({"game": "shisen_sho", "groupsize": 4}, "unknown env_config key 'groupsize', did you mean 'group_size'?"),
        ({"level": "tiny"}, "game is required in env_config"),
        ({"game": "shisen_sho", "group_size": 0}, "group_size must be a whole number of at least 1, got 0"),
        ({"game": "shisen_sho", "num_turns": 1.5}, "num_turns must be a whole number of at least 1, got 1.5"),
        ({"game": "shisen_sho", "reward": "ra"}, "unknown reward 'ra', did you mean 'raw'?"),
        ({"game": "shisen_sho", "start": "late"}, "unknown start 'late'"),
    ],
)
def test_a_bad_config_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        GameGroupEnv(config)
    assert message in str(error.value)


def test_an_unknown_reset_option_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown reset option 'state', did you mean 'state_text'"):
        make_env().reset(options={"state": LAST_PAIR})
