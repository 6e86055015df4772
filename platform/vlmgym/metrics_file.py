"""Decides what metrics.jsonl holds: one flat line per logged step, in order, no step of a stage twice after a resume.

A line: {"stage": "grpo", "step": 12, "time_s": 61.5, "reward": 0.83, ...}. time_s counts from the start of the run
and goes on after a resume. A value that is not finite is null.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

METRICS_FILE = "metrics.jsonl"


class Point(NamedTuple):
    """Where a run stands: `step` steps of `stage` are done."""

    stage: str
    step: int


class MetricsFile:
    """Appends to metrics.jsonl; each line is on disk when `log` returns."""

    def __init__(self, path: Path, lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """Starts the file with `lines`, in one atomic write."""
        self._started_s = time.monotonic() - (lines[-1]["time_s"] if lines else 0.0)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")

    @classmethod
    def resumed(cls, path: Path, point: Point) -> Self:
        """Goes on after `point`; what was logged later, by steps that will be done again, is dropped."""
        return cls(path, lines_until(read_metrics(path), point))

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        line: dict[str, Any] = {"stage": stage, "step": step, "time_s": round(time.monotonic() - self._started_s, 3)}
        for name, value in metrics.items():
            assert name not in ("stage", "step", "time_s"), name
            number = float(value)
            line[name] = number if math.isfinite(number) else None
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a last one cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def lines_until(lines: Sequence[dict[str, Any]], point: Point) -> list[dict[str, Any]]:
    """The lines up to the last one that belongs to the first `point.step` steps of `point.stage`.

    Where that stage has none: all lines before its first one, hence all lines if it never started.
    """
    of_stage = [index for index, line in enumerate(lines) if line["stage"] == point.stage]
    kept = [index for index in of_stage if lines[index]["step"] <= point.step]
    if kept:
        return list(lines[: kept[-1] + 1])
    return list(lines[: of_stage[0]] if of_stage else lines)
