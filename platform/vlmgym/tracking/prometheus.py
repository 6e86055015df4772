"""Decides what Prometheus sees of a run: the declared metrics as gauges of Ray's own endpoint, fields as labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vlmgym.tracking.metrics import METRICS, STEP, Metric, find_metric

PREFIX = "vlmgym_"
RAY_PREFIX = "ray_"
"""What Ray puts before the names of all its gauges."""
RUN_LABELS = ("run", "stage")


def gauge_name(metric: Metric) -> str:
    """The gauge of a metric, as the driver names it; the endpoint shows it with RAY_PREFIX before it.

    >>> gauge_name(Metric("game/{game}/{level}/solve_rate", "", ""))
    'vlmgym_game_solve_rate'
    """
    words = re.sub(r"{\w+}", "", metric.name)
    return PREFIX + re.sub(r"\W+", "_", words)


def gauge_labels(metric: Metric) -> tuple[str, ...]:
    return (*RUN_LABELS, *metric.fields)


class Prometheus:
    """Sets gauges in the driver; each node's Ray agent exports what its processes set, at most 10 s later.

    What is not declared in `metrics.py` is left out. Needs a Ray cluster that is connected.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._step = self._gauge(Metric(STEP, "steps", "the last step that was logged"))
        self._gauges = {gauge_name(metric): self._gauge(metric) for stage in METRICS.values() for metric in stage}

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        labels = {"run": self._run, "stage": stage}
        self._step.set(step, tags=labels)
        for name, value in metrics.items():
            found = find_metric(stage, name)
            if found is not None and math.isfinite(value):
                metric, fields = found
                self._gauges[gauge_name(metric)].set(float(value), tags={**labels, **fields})

    def close(self) -> None:
        """Nothing to do: the agent drops the gauges of a process that has ended."""

    def _gauge(self, metric: Metric) -> Any:
        from ray.util.metrics import Gauge

        unit = f" ({metric.unit})" if metric.unit else ""
        return Gauge(gauge_name(metric), metric.meaning + unit, tag_keys=gauge_labels(metric))
