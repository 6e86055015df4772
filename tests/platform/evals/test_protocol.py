from itertools import product

from vlmgym.evals.protocol import answer_seed, points, start_seed


def test_every_run_and_every_answer_has_a_seed_of_its_own() -> None:
    starts = [start_seed(seed, run) for seed, run in product(range(5), range(40))]
    answers = [answer_seed(seed, run, step) for seed, run, step in product(range(5), range(10), range(20))]
    assert len({*starts, *answers}) == 200 + 1000
    assert all(0 <= seed < 2**53 for seed in (*starts, *answers))


def test_seeds_stay_what_they_are() -> None:
    """Results of different versions are compared run by run."""
    assert (start_seed(0, 0), start_seed(0, 1)) == (7711540714544783, 2849867795630718)
    assert answer_seed(0, 0, 0) == 4223243260824431


def test_a_step_counts_by_the_rule_of_its_game() -> None:
    assert [points("reward_sum", reward) for reward in (0.0, 4.0, 128.0, -1.0)] == [0, 4, 128, -1]
    assert [points("positive_steps", reward) for reward in (0.0, 4.0, 0.5, -1.0)] == [0, 1, 1, 0]
