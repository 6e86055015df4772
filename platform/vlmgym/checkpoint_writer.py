"""When training waits for a checkpoint: for a copy of its state, and for the one before to be on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vlmgym.checkpoints import Checkpoints, Score
from vlmgym.metrics_file import Point


class CheckpointWriter:
    """Writes checkpoints of one algorithm, at most one at a time.

    best_metric: of the step that a checkpoint is taken after; one without it has no score. asynchronous: whether
    training goes on while one is written. on_written: is told of each, at the latest before the next.
    """

    def __init__(
        self,
        algorithm: Any,
        checkpoints: Checkpoints,
        best_metric: str,
        *,
        asynchronous: bool,
        on_written: Callable[[Point], None],
    ) -> None:
        self._algorithm = algorithm
        self._checkpoints = checkpoints
        self._best_metric = best_metric
        self._asynchronous = asynchronous
        self._on_written = on_written
        self._started: Point | None = None
        self._in_writing: Point | None = None

    @property
    def newest(self) -> Point | None:
        """The newest one, which may still be in writing."""
        return self._started

    def save(self, point: Point, metrics: Mapping[str, float]) -> None:
        """Begins to write a checkpoint when the one before is written. Raises what kept that one from it."""
        self.wait()
        place = self._checkpoints.begin(point)
        finish = partial(self._checkpoints.finish, point, self._score(metrics))
        if self._asynchronous:
            self._algorithm.start_saving(place.path, place.filesystem, finish)
        else:
            self._algorithm.save_to_path(place.path, filesystem=place.filesystem)
            finish()
        self._started = self._in_writing = point

    def rate(self, point: Point, metrics: Mapping[str, float]) -> None:
        """Gives a checkpoint that is written its score, where `metrics` have it."""
        score = self._score(metrics)
        if score is not None:
            self._checkpoints.rate(point, score)

    def wait(self) -> None:
        """Until nothing is being written. Raises what kept a checkpoint from it."""
        point, self._in_writing = self._in_writing, None
        if point is not None:
            self._algorithm.finish_saving()
            self._on_written(point)

    def _score(self, metrics: Mapping[str, float]) -> Score | None:
        value = metrics.get(self._best_metric)
        return None if value is None or not math.isfinite(value) else Score(self._best_metric, float(value))
