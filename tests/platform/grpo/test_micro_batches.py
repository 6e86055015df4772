import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgym.grpo.micro_batches import (
    MICRO_BATCH_TOKENS,
    padding_fraction,
    plan_micro_batches,
    share_out,
    with_at_least,
)

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 1200))
def test_a_plan_holds_every_sequence_once_and_keeps_the_budget(lengths: list[int], max_tokens: int) -> None:
    plan = plan_micro_batches(lengths, max_tokens)
    assert sorted(index for rows in plan for index in rows) == list(range(len(lengths)))
    for rows in plan:
        assert len(rows) * max(lengths[i] for i in rows) <= max_tokens or len(rows) == 1


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(1, 1200))
def test_no_cut_of_the_sorted_lengths_is_cheaper(lengths: list[int], max_tokens: int) -> None:
    def cost(plan: list[list[int]]) -> float:
        if any(len(rows) > 1 and len(rows) * max(rows) > max_tokens for rows in plan):
            return float("inf")
        return sum(len(rows) * max(rows) + MICRO_BATCH_TOKENS for rows in plan)

    ascending = sorted(lengths)
    places = range(1, len(ascending))
    cuts = itertools.chain.from_iterable(itertools.combinations(places, n) for n in range(len(ascending)))
    all_costs = [cost([ascending[i:j] for i, j in itertools.pairwise([0, *cut, len(ascending)])]) for cut in cuts]
    assert cost([[lengths[i] for i in rows] for rows in plan_micro_batches(lengths, max_tokens)]) == min(all_costs)


def test_equal_lengths_fill_the_budget_in_their_order() -> None:
    assert plan_micro_batches([300] * 7, max_tokens=900) == [[0], [1, 2, 3], [4, 5, 6]]


def test_a_cut_pays_where_it_saves_more_than_it_costs() -> None:
    """Four short ones beside a long one: apart saves 4 x 31 or 4 x 33 tokens, and costs 128."""
    assert len(plan_micro_batches([100] * 4 + [131], 10_000)) == 1
    assert len(plan_micro_batches([100] * 4 + [133], 10_000)) == 2


def test_the_demonstration_pads_less_than_a_twentieth() -> None:
    """32 groups of 8: prompts of 20 tokens, responses of 26..48; one cut by the budget alone pads a seventh."""
    lengths = (20 + np.random.default_rng(0).integers(26, 49, size=256)).tolist()
    assert padding_fraction(lengths, plan_micro_batches(lengths, 16_384)) < 0.05
    in_two = np.array_split(np.argsort(lengths), [240])
    assert padding_fraction(lengths, [rows.tolist() for rows in in_two]) > 0.13


def test_padding_by_hand() -> None:
    """4 + 2 tokens in two rows of 4, 3 in one of 3: 9 of 11."""
    assert padding_fraction([4, 2, 3], [[0, 1], [2]]) == pytest.approx(2 / 11)


def test_the_token_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        plan_micro_batches([1], 0)


def test_more_micro_batches_halve_the_largest() -> None:
    assert with_at_least([[0, 1, 2, 3], [4, 5]], 2) == [[0, 1, 2, 3], [4, 5]]
    assert with_at_least([[0, 1, 2, 3], [4, 5]], 3) == [[0, 1], [2, 3], [4, 5]]
    assert with_at_least([[0, 1, 2], [4]], 9) == [[0], [1], [2], [4]]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.data())
def test_shares_are_whole_none_is_empty_and_none_is_far_ahead(sizes: list[int], data: st.DataObject) -> None:
    shares = share_out(sizes, data.draw(st.integers(1, len(sizes))))
    assert sorted(index for share in shares for index in share) == list(range(len(sizes)))
    sums = [sum(sizes[i] for i in share) for share in shares]
    assert min(map(len, shares)) >= 1
    assert max(sums) - min(sums) <= max(sizes)


def test_shares_by_hand() -> None:
    """7 alone, 5 and 4 joined by 3 and 2."""
    assert share_out([3, 7, 2, 5, 4], 3) == [[1], [2, 3], [0, 4]]
    with pytest.raises(ValueError, match=r"num_shares must be in 1\.\.2, got 3"):
        share_out([1, 1], 3)
