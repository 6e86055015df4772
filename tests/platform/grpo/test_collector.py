"""Batches of groups from runners that a test controls, without Ray."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgym.grpo.collector import GroupCollector
from vlmgym.grpo.curriculum import Ladder
from vlmgym.grpo.group_stats import GroupStats
from vlmgym.grpo.runner import DroppedGroup, PlayedGroup, Sample
from vlmgym_policies.insight import Tally

STATS = GroupStats(
    "maze", "tiny", *[0.0] * 6, num_decisions=2, num_branches=2, num_won=0, tally=Tally(), weights_version=10**6
)


def played(group_id, return_std=1.0):
    return PlayedGroup(group_id, None, STATS._replace(return_std=return_std))


class FakeRunners:
    """Runners 1..n; `answer(runner, group_id)` decides what becomes of a group: an answer, or None for not yet."""

    def __init__(self, answer, num=2):
        self.answer = answer
        self.healthy = list(range(1, num + 1))
        self.asked = {runner: [] for runner in self.healthy}

    def num_remote_env_runners(self):
        return len(self.asked)

    def healthy_worker_ids(self):
        return self.healthy

    def foreach_env_runner(self, method, *, kwargs, remote_worker_ids=None, local_env_runner):
        assert local_env_runner is False
        if method == "play":
            for runner, arguments in zip(remote_worker_ids, kwargs, strict=True):
                self.asked[runner] += arguments["tasks"]
            return []
        samples = []
        for runner in list(self.healthy):
            answers = [(group_id, self.answer(runner, group_id)) for group_id in self.asked[runner]]
            self.asked[runner] = [group_id for group_id, answer in answers if answer is None]
            samples.append(Sample([answer for _, answer in answers if answer is not None], {}))
        return samples


def make(answer, *, num_runners=2, **changes):
    config = {"num_groups_per_train_batch": 4, "max_weights_lag": 0, "stale_groups": "wait", "max_dropped_groups": 8}
    config |= {
        "seed": 0,
        "weights_of_games": [1.0],
        "ladders_of_games": {},
        "max_uninformative_groups": 0,
        "env_runner_restore_timeout_s": 0.0,
        "restart_failed_env_runners": True,
    }
    runners = FakeRunners(answer, num_runners)
    losses = []
    collector = GroupCollector(SimpleNamespace(**{**config, **changes}), runners, lambda: losses.append(1))
    return collector, runners, losses


def ids(batch):
    return [group.group_id for group in batch]


def add_up(counts):
    ends = counts.delivered + counts.dropped + counts.stale + counts.uninformative + counts.unfinished
    return counts.requested == ends


def test_without_lag_a_batch_is_asked_for_and_waited_for():
    collector, runners, _ = make(lambda runner, group_id: played(group_id))
    assert ids(collector.take(0)) == [0, 1, 2, 3]
    assert ids(collector.take(1)) == [4, 5, 6, 7]
    assert collector.counts == (8, 8, 0, 0, 0, 0, 0)
    assert runners.asked == {1: [], 2: []}


def test_a_fault_costs_its_group_alone_and_a_new_one_takes_its_place():
    collector, _, losses = make(lambda _, i: DroppedGroup(i, "no table") if i == 2 else played(i))
    assert ids(collector.take(0)) == [0, 1, 3, 4]
    assert collector.counts == (5, 4, 1, 0, 0, 0, 0) and losses == [1]


def test_too_many_faults_stop_the_run_with_the_last_reason():
    collector, _, _ = make(lambda _, i: DroppedGroup(i, f"fault {i}"), max_dropped_groups=5)
    with pytest.raises(RuntimeError, match=r"8 groups were dropped in one iteration, last: fault 7"):
        collector.take(0)


def test_what_a_lost_runner_was_asked_for_is_asked_for_again():
    collector, runners, losses = make(lambda runner, i: None if runner == 2 and i < 4 else played(i))

    def lose():
        losses.append(1)

    poll = collector._poll

    def poll_and_lose():
        samples = poll()
        runners.healthy = [1]
        return samples

    collector._poll = poll_and_lose
    assert ids(collector.take(0)) == [0, 1, 2, 3]
    assert collector.counts == (4, 4, 0, 0, 0, 0, 2) and losses


def test_a_group_whose_engine_was_lost_is_asked_for_again_but_not_for_ever():
    lost = {1: 2, 2: 9}  # how often the engine of a group is lost

    def answer(runner, group_id):
        if lost.get(group_id, 0):
            lost[group_id] -= 1
            return DroppedGroup(group_id, "its engine was lost", lost=True)
        return played(group_id)

    collector, _, losses = make(answer)
    assert ids(collector.take(0)) == [0, 1, 3, 4]
    assert collector.counts == (5, 4, 1, 0, 0, 0, 4) and len(losses) == 3


def test_an_answer_with_older_weights_than_it_was_asked_for_counts_as_old():
    """As of a runner that was given up, came back and told what it had played long ago."""
    old = PlayedGroup(4, None, STATS._replace(return_std=1.0, weights_version=0))
    collector, _, _ = make(lambda _, i: old if i == 4 else played(i), max_weights_lag=0)
    collector.take(0)
    assert ids(collector.take(1)) == [5, 6, 7, 8]
    assert collector.counts.stale == 1 and add_up(collector.counts)


def test_an_answer_of_a_runner_given_up_is_not_counted_twice():
    collector, runners, _ = make(lambda runner, i: played(i), num_runners=1)
    collector.take(0)
    runners.asked[1] = [0, 1]  # answered again
    assert ids(collector.take(1)) == [4, 5, 6, 7]
    assert collector.counts == (8, 8, 0, 0, 0, 0, 0)


def test_with_lag_one_a_batch_is_under_way_while_learners_update():
    collector, _, _ = make(lambda runner, i: played(i), max_weights_lag=1)
    assert ids(collector.take(0)) == [0, 1, 2, 3]
    assert collector.counts.unfinished == 4  # bounded: one batch ahead, no more
    assert ids(collector.take(1)) == [4, 5, 6, 7]


def test_a_straggler_is_waited_for_before_it_is_too_old():
    """Group 0, asked for with version 0, comes at the 5th poll: the batch of version 0 goes without, the next waits."""
    polls = []

    def answer(runner, group_id):
        polls.append(group_id)
        return None if group_id == 0 and polls.count(0) < 5 else played(group_id)

    collector, _, _ = make(answer, max_weights_lag=1)
    assert ids(collector.take(0)) == [1, 2, 3, 4]
    assert ids(collector.take(1)) == [0, 5, 6, 7]
    assert polls.count(0) == 5 and add_up(collector.counts)


def test_or_it_is_dropped_when_it_is():
    late = {0}
    collector, _, _ = make(
        lambda runner, i: None if i in late else played(i), max_weights_lag=1, stale_groups="drop", num_runners=1
    )
    assert 0 not in ids(collector.take(0)) and 0 not in ids(collector.take(1))
    late.clear()
    assert 0 not in ids(collector.take(2))
    assert collector.counts.stale == 1 and add_up(collector.counts)


def test_groups_whose_rewards_are_equal_are_replaced_up_to_a_bound():
    collector, _, _ = make(lambda _, i: played(i, return_std=float(i >= 6)), max_uninformative_groups=3)
    assert ids(collector.take(0)) == [3, 4, 5, 6]  # 0..2 are replaced; 3..5 teach nothing either, but stay
    assert collector.counts == (7, 4, 0, 0, 3, 0, 0)
    assert ids(collector.take(1)) == [7, 8, 9, 10]


def test_a_resumed_run_plays_again_what_was_under_way():
    collector, _, _ = make(lambda runner, i: None if i in (5, 7) else played(i), max_weights_lag=1)
    assert ids(collector.take(0)) == [0, 1, 2, 3]
    state = collector.get_state()
    resumed, _, _ = make(lambda runner, i: played(i), max_weights_lag=1)
    resumed.set_state(state)
    assert resumed.counts == collector.counts
    assert ids(resumed.take(1)) == [4, 5, 6, 7]
    assert resumed.counts.requested == 12 and add_up(resumed.counts)


def test_no_runner_left_stops_the_run():
    collector, runners, _ = make(lambda runner, i: played(i))
    runners.healthy = []
    with pytest.raises(RuntimeError, match="no env runner is left"):
        collector.take(0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lag=st.integers(0, 3), policy=st.sampled_from(["wait", "drop"]), bound=st.integers(0, 3))
def test_no_group_is_lost_or_counted_twice_and_none_is_too_old(data, lag, policy, bound):
    seen, asked_at, version = [], {}, 0

    def answer(runner, group_id):
        asked_at.setdefault(group_id, version)
        fate = data.draw(st.sampled_from(["played", "played", "equal", "late", "dropped", "lost"]))
        if fate == "late":
            return None
        if fate == "lost":
            asked_at.pop(group_id)
        return (
            DroppedGroup(group_id, "x", fate == "lost")
            if fate in ("dropped", "lost")
            else played(group_id, float(fate == "played"))
        )

    collector, _, _ = make(
        answer, max_weights_lag=lag, stale_groups=policy, max_uninformative_groups=bound, max_dropped_groups=10_000
    )
    for version in range(5):
        batch = collector.take(version)
        assert len(batch) == 4
        seen += ids(batch)
        assert all(version - asked_at[group_id] <= lag for group_id in ids(batch))
        assert add_up(collector.counts) and collector.counts.unfinished <= 4 * lag
    assert len(set(seen)) == len(seen) == 20


def games_of(batch):
    return [group.task.game for group in batch]


def test_every_batch_has_the_shares_of_the_games():
    collector, _, _ = make(lambda _, i: played(i), weights_of_games=[2.0, 1.0, 1.0])
    batches = [games_of(collector.take(version)) for version in range(5)]
    assert all(sorted(games) == [0, 0, 1, 2] for games in batches)


def test_what_is_lost_of_a_game_is_replaced_by_the_same_game():
    """Group 2, of game 2, and the one in its place have equal rewards; group 1, of game 1, fails."""

    def answer(_, group_id):
        if group_id == 1:
            return DroppedGroup(group_id, "no table")
        return played(group_id, return_std=0.0 if group_id in (2, 3) else 1.0)

    collector, _, _ = make(answer, weights_of_games=[1.0] * 3, num_groups_per_train_batch=3, max_uninformative_groups=2)
    batch = collector.take(0)
    assert sorted(games_of(batch)) == [0, 1, 2] and ids(batch) == [0, 4, 5]
    assert games_of(collector.take(1)) == [0, 1, 2]


SUCCESS = STATS._replace(tally=Tally(num_decisions=2, num_progress=2), return_std=1.0)
CLIMB = {
    "weights_of_games": [1.0, 1.0],
    "ladders_of_games": {1: Ladder({"size": [{"rows": 3}, {"rows": 5}]}, 2, 0.8, 0.2)},
}


def test_a_curriculum_counts_what_is_learned_from_and_what_is_replaced():
    """Every decision made progress; the two groups of game 1 fill the window of 2."""
    collector, _, _ = make(lambda _, i: PlayedGroup(i, None, SUCCESS), **CLIMB)
    first = collector.take(0)
    assert [(group.task.game, group.task.knobs) for group in first] == [(0, {}), (1, {"rows": 3})] * 2
    assert collector.tasks.metrics == {1: {"size": {"step": 1.0}}}
    assert [group.task.knobs for group in collector.take(1)] == [{}, {"rows": 5}] * 2
    answers = [SUCCESS._replace(return_std=0.0)] * 4 + [SUCCESS] * 4
    collector, _, _ = make(lambda _, i: PlayedGroup(i, None, answers[i]), max_uninformative_groups=9, **CLIMB)
    assert [group.task.game for group in collector.take(0)].count(1) == 2
    assert collector.tasks.metrics[1]["size"]["step"] == 1.0


def test_a_resumed_run_plays_the_same_tasks():
    def answer(_, group_id):
        return PlayedGroup(group_id, None, SUCCESS) if group_id < 6 else None

    collector, _, _ = make(answer, max_weights_lag=1, stale_groups="drop", **CLIMB)
    collector.take(0)
    tasks = {group_id: pending.task for group_id, pending in collector._pending.items()}
    assert tasks
    resumed, _, _ = make(lambda _, i: PlayedGroup(i, None, SUCCESS), max_weights_lag=1, stale_groups="drop", **CLIMB)
    resumed.set_state(collector.get_state())
    batch = resumed.take(1)
    assert {group.group_id: group.task for group in batch if group.group_id in tasks}.items() <= tasks.items()
    assert games_of(batch) == [0, 1, 0, 1]
