"""Decides which sequences share a forward pass, and which groups share a learner: little padding, equal work."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

MICRO_BATCH_TOKENS = 128
"""What one more micro-batch costs beside its tokens, in tokens: launching its kernels, reading the weights again."""


def plan_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of sequences per micro-batch: sorted by length, then cut where padding and number of cuts cost least.

    Rows x longest length stays within `max_tokens`; a sequence longer than that has a micro-batch of its own. Equal
    lengths keep their order, so siblings, which share a picture, stay together.

    >>> plan_micro_batches([300, 900, 310, 300], max_tokens=1200)
    [[0, 3, 2], [1]]
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    order = np.argsort(np.asarray(lengths), kind="stable")
    starts = _cheapest_starts(np.asarray(lengths)[order], max_tokens)
    plan: list[list[int]] = []
    end = len(order)
    while end:
        plan.append(order[starts[end] : end].tolist())
        end = starts[end]
    return plan[::-1]


def _cheapest_starts(lengths: np.ndarray, max_tokens: int) -> list[int]:
    """By `end`: where the last micro-batch of a cheapest plan of the first `end` sequences starts.

    lengths: int [N], ascending. Dynamic programming over that end, quadratic in sequences at worst.
    """
    costs = np.zeros(len(lengths) + 1)
    starts = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        longest = int(lengths[end - 1])
        first = end - min(end, max(1, max_tokens // longest))
        rows = end - np.arange(first, end)
        candidates = costs[first:end] + rows * longest + MICRO_BATCH_TOKENS
        best = int(candidates.argmin())
        costs[end], starts[end] = candidates[best], first + best
    return starts


def padding_fraction(lengths: Sequence[int], plan: Sequence[Sequence[int]]) -> float:
    """Share of the planned tokens that pad a shorter row to the longest of its micro-batch, in 0..1."""
    padded = sum(len(rows) * max(lengths[i] for i in rows) for rows in plan)
    return 1.0 - sum(lengths) / padded


def with_at_least(plan: Sequence[Sequence[int]], num_micro_batches: int) -> list[list[int]]:
    """The plan with its largest micro-batches halved until there are so many, or none has two rows."""
    parts = [list(rows) for rows in plan]
    while len(parts) < num_micro_batches:
        largest = max(range(len(parts)), key=lambda i: len(parts[i]))
        rows = parts[largest]
        if len(rows) < 2:
            break
        parts[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return parts


def share_out(sizes: Sequence[int], num_shares: int) -> list[list[int]]:
    """Indices per share, so that their sums of `sizes` are about equal; none is empty.

    The largest first, each to the share with least (Graham 1969, "Bounds on multiprocessing timing anomalies": the
    largest sum is at most 4/3 of the best possible).

    >>> share_out([5, 1, 4, 2], num_shares=2)
    [[0, 1], [2, 3]]
    """
    if not 1 <= num_shares <= len(sizes):
        raise ValueError(f"num_shares must be in 1..{len(sizes)}, got {num_shares}")
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    sums = [(0, 0, share) for share in range(num_shares)]
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        total, count, share = heapq.heappop(sums)
        shares[share].append(index)
        heapq.heappush(sums, (total + sizes[index], count + 1, share))
    return [sorted(share) for share in shares]
