import numpy as np
import pytest

from vlmgym.grpo.advantages import (
    ADVANTAGES,
    AdvantageRule,
    decision_advantages,
    normalise_by_game,
    normalise_over_batch,
)


def floats(*values):
    return np.array(values, dtype=np.float32)


def one_turn(returns, name):
    """The advantages of a group whose branches take one decision each, all in one state."""
    rewards = [floats(value) for value in returns]
    return np.concatenate(decision_advantages(rewards, [["start"]] * len(returns), AdvantageRule(name)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", [0.8660, -0.8660, -0.8660, 0.8660]),  # mean 1, sample std sqrt(4 / 3) = 1.1547; 1 / 1.1547 = 0.8660
        ("dr_grpo", [1, -1, -1, 1]),
        ("rloo", [4 / 3, -4 / 3, -4 / 3, 4 / 3]),  # 2 - (0 + 0 + 2) / 3, 0 - (2 + 0 + 2) / 3
        ("reinforce_pp", [2, 0, 0, 2]),
        ("reinforce_pp_baseline", [1, -1, -1, 1]),
    ],
)
def test_returns_2_0_0_2_by_hand(name, expected):
    advantages = one_turn([2, 0, 0, 2], name)
    np.testing.assert_allclose(advantages, expected, atol=1e-4)
    assert advantages.dtype == np.float32


@pytest.mark.parametrize("name", sorted(ADVANTAGES.keys() - {"reinforce_pp"}))
def test_equal_returns_teach_nothing(name):
    np.testing.assert_array_equal(one_turn([0.75] * 4, name), np.zeros(4))


@pytest.mark.parametrize("name", sorted(ADVANTAGES.keys() - {"reinforce_pp"}))
def test_a_group_of_one_is_refused(name):
    with pytest.raises(ValueError, match="at least 2 branches, got 1"):
        one_turn([1], name)


def test_reinforce_pp_needs_no_group():
    assert one_turn([1], "reinforce_pp").tolist() == [1.0]


REWARDS = [floats(1, 2), floats(0, 0, 4), floats(3)]
STATES = [["a", "b"], ["a", "a", "b"], ["a"]]
"""Branch 1 is refused once and stays in state a, branch 2 ends after its first turn."""


def test_credit_for_the_episode_is_that_of_the_sum_in_every_turn():
    """Sums 3, 4, 3 with mean 10 / 3."""
    advantages = decision_advantages(REWARDS, STATES, AdvantageRule("dr_grpo"))
    assert [len(turns) for turns in advantages] == [2, 3, 1]
    np.testing.assert_allclose(np.concatenate(advantages), [-1 / 3, -1 / 3, 2 / 3, 2 / 3, 2 / 3, -1 / 3], atol=1e-6)


def test_credit_for_a_turn_compares_what_came_from_it_on():
    """Discounted by 1/2: 1 + 1 = 2 and 2; 1, 2 and 4; 3. Turn 0: 2, 1, 3, mean 2. Turn 1: 2, 2. Turn 2: alone."""
    advantages = decision_advantages(REWARDS, STATES, AdvantageRule("dr_grpo", "turn", gamma=0.5))
    np.testing.assert_allclose(np.concatenate(advantages), [0, 0, -1, 0, 0, 1])


def test_decisions_taken_in_one_state_are_a_group():
    """GiGPO. In state a: 2, 1, 2, 3, mean 2; in state b: 2, 4, mean 3; weighed by 10 beside the episode's."""
    advantages = decision_advantages(REWARDS, STATES, AdvantageRule("dr_grpo", "episode", gamma=0.5, step_weight=10.0))
    in_state = np.array([0, -1, -1, 0, 1, 1]) * 10
    of_episode = np.array([-1, -1, 2, 2, 2, -1]) / 3
    np.testing.assert_allclose(np.concatenate(advantages), in_state + of_episode, rtol=1e-6)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_decision_alone_in_its_state_is_compared_with_nothing(name):
    states = [["a"], ["b"], ["c"]]
    rewards = [floats(1), floats(2), floats(6)]
    with_steps = decision_advantages(rewards, states, AdvantageRule(name, step_weight=1.0))
    assert np.array_equal(with_steps, decision_advantages(rewards, states, AdvantageRule(name)))


def test_a_batch_is_normalised_by_its_tokens_over_all_learners():
    """Sampled tokens 4, 4, 4 here and 0, 0, 0 on the other learner: mean 2, population std 2, so +1 here."""
    here, sampled = [floats(4, 9), floats(4, 4)], [np.array([True, False]), np.array([True, True])]
    of_the_other = iter([3, 0, 12])  # how many tokens, their sum, their squared distances from 2
    normalised = normalise_over_batch(here, sampled, lambda number: number + next(of_the_other))
    np.testing.assert_allclose(np.concatenate(normalised), [1, 9, 1, 1], rtol=1e-5)
    assert all(values.dtype == np.float32 for values in normalised)


def test_games_are_normalised_apart_and_each_adds_up_also_where_it_is_missing():
    """Game 0 has mean 2 and deviation 1, game 1, a hundred times as large, 200 and 100; game 2 is another learner's."""
    advantages = [np.array(values, dtype=np.float32) for values in ([1], [100, 300], [3])]
    sampled = [np.ones(len(values), dtype=bool) for values in advantages]
    sums = []
    normalised = normalise_by_game(advantages, sampled, [0, 1, 0], 3, lambda number: sums.append(number) or number)
    np.testing.assert_allclose(np.concatenate(normalised), [-1, -1, 1, 1], rtol=1e-5)
    assert sums == [2, 4, 2, 2, 400, 20_000, 0, 0, 0]
