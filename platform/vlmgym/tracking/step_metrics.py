"""How an RLlib result becomes the metrics of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmgym.tracking.metrics import METRICS


def step_metrics(stage: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The declared metrics of `stage` that an RLlib result holds.

    What it knows of a game or a level that has not been played in this step is not a number there, and is left out.
    """
    found: dict[str, float] = {}
    for metric in METRICS[stage]:
        if metric.source:
            of_step = _read(result, metric.source, metric.name)
            found |= {name: value for name, value in of_step if not (metric.fields and math.isnan(value))}
    return found


def _read(values: Any, source: Sequence[str], name: str) -> Iterator[tuple[str, float]]:
    """The values under a path, with their names; a field on the path stands for every key there."""
    if not source:
        yield name, float(values)
        return
    key, *rest = source
    if key.startswith("{"):
        for value, inner in values.items():
            yield from _read(inner, rest, name.replace(key, value))
    elif key in values:
        yield from _read(values[key], rest, name)
