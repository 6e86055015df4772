"""Ends a text before the first of some stop texts, piece by piece as it comes."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Lets a growing text through up to a stop. What may be the beginning of one is held back until that is known."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What may be told, now that `text` has come. Nothing once a stop was found."""
        if self.found:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._release(min(places))
        return self._release(len(self._held) - max(map(self._num_begun, self._stops), default=0))

    def end(self) -> str:
        """What was held back, now that no more comes."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, num: int) -> str:
        told, self._held = self._held[:num], self._held[num:]
        return told

    def _num_begun(self, stop: str) -> int:
        """How many characters at the end are the first of `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((num for num in range(longest, 0, -1) if self._held.endswith(stop[:num])), 0)
