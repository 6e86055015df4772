"""Decides which game of a mixture is played next: each has its share of any number of draws."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


class Mixture:
    """A sequence of games by weight: of its first n, game i has its share w_i n, off by less than one, for every n.

    No dice: with them a batch of 32 groups would hold a game of weight 1/2 between 11 and 21 times in 95 of 100 cases.
    The sequence depends on the weights alone; what is played, the start state, comes from the run's seed.

    Tijdeman 1980, "The chairman assignment problem" (Discrete Mathematics 32): of the games that may be drawn without
    exceeding their share by 1 - 1 / (2 k - 2), for k games, the one that would fall that far behind first.

    >>> [Mixture([2, 1]).game(number) for number in range(6)]
    [0, 1, 0, 0, 1, 0]
    """

    def __init__(self, weights: Sequence[float]) -> None:
        """Raises: ValueError for no weights, or one that is not above 0."""
        if not weights or min(weights) <= 0:
            raise ValueError(f"weights must be above 0, one per game, got {list(weights)}")
        exact = [Fraction(weight) for weight in weights]
        self.shares = [weight / sum(exact) for weight in exact]
        self._spare = Fraction(1, max(1, 2 * len(weights) - 2))
        self._drawn: list[tuple[int, int]] = []
        self._counts = [0] * len(weights)

    def game(self, number: int) -> int:
        """The game of draw `number`, from 0."""
        return self.draw(number)[0]

    def draw(self, number: int) -> tuple[int, int]:
        """The game of draw `number`, and how many draws before it were of that game."""
        while len(self._drawn) <= number:
            game = self._next()
            self._drawn.append((game, self._counts[game]))
            self._counts[game] += 1
        return self._drawn[number]

    def _next(self) -> int:
        if len(self.shares) == 1:
            return 0
        due = [share * (len(self._drawn) + 1) - count for share, count in zip(self.shares, self._counts, strict=True)]
        may = [game for game, owed in enumerate(due) if owed >= self._spare]
        return min(may, key=lambda game: (1 - self._spare - due[game]) / self.shares[game])
