"""Decides how sure a difference of two shares is."""

from __future__ import annotations

import math
from typing import NamedTuple

from vlmgym.evals.report import Rate


class Difference(NamedTuple):
    """One share minus another, with the 95% interval of that."""

    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """In points."""
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * share for share in self))


def difference(one: Rate, other: Rate) -> Difference:
    """one - other, of two independent shares with Wilson's intervals.

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10. Here both are mostly shares of the same boards. What
    became of each board is not kept, so the interval is that of independent samples; where right answers to the same
    boards go together, the true one is narrower.

    >>> from vlmgym.evals.report import rate
    >>> print(difference(rate(56, 70), rate(48, 80)))
    +20.0 [+5.2, +33.4]
    """
    mean = one.mean - other.mean
    down = math.hypot(one.mean - one.low, other.high - other.mean)
    up = math.hypot(one.high - one.mean, other.mean - other.low)
    return Difference(mean, mean - down, mean + up)
