"""When requests join the rows that run: a prefill holds those up, so newcomers had better come together."""

from __future__ import annotations

PREFILL_STEPS = 3
"""Tokens that each row could have made in the time that a prefill of few rows takes."""


class Admission:
    """Lets requests in when they have waited, together, for as many tokens as their prefill costs the rows that run.

    So the two losses are equal, and neither is more than twice what the best schedule loses, as when renting or buying
    skis. To be asked once before each step.
    """

    def __init__(self) -> None:
        self._num_lost = 0

    def num_admitted(self, num_waiting: int, num_running: int) -> int:
        """How many join now, all or none. num_waiting: requests there is room for."""
        if self._num_lost < PREFILL_STEPS * num_running:
            self._num_lost += num_waiting
            return 0
        self._num_lost = 0
        return num_waiting
