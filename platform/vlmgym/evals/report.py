"""Decides how measured policies are told: rates with 95% intervals, summary.json and one table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from vlmgym_policies.insight import ERRORS
from vlmgym_policies.scoring import Score

CONFIDENCE = 0.95
PLAIN_WIDTH = 120
"""Characters per line of a table that is not printed on a terminal."""
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


class Rate(NamedTuple):
    """A mean over `n` observations and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return " ".join(self.percentages)

    @property
    def percentages(self) -> tuple[str, str]:
        """The mean and its interval: ("45.5", "[41.2, 49.8]"). 100 has no decimals, so that columns stay narrow."""
        mean, low, high = (f"{100 * share:.1f}".replace("100.0", "100") for share in self[:3])
        return mean, f"[{low}, {high}]"


PolicyResult = Mapping[str, Mapping[str, Rate]]
"""How a policy did: "sampled" and, where it can decode so, "greedy" -> metric -> Rate."""

TABLE_ROWS = {
    "untrained": "before cold start",
    "cold_start_best": "cold start, best",
    "cold_start": "cold start, end",
    "grpo": "after GRPO",
    "teacher": "teacher",
    "random": "random",
    "legal_random": "legal random",
    "solver": "solver",
}
"""Rows of the table, in order; other policies follow under their own name."""

TABLE_COLUMNS = {
    "progress\nsampled": ("sampled", "progress_rate"),
    "progress\ngreedy": ("greedy", "progress_rate"),
    "legal\nsampled": ("sampled", "legal_move_rate"),
    "legal\ngreedy": ("greedy", "legal_move_rate"),
    "format": ("sampled", "format_rate"),
    "boards": ("sampled", "perception_board"),
    "cells": ("sampled", "perception_cells"),
}
"""Progress is left out where it says the same as legal: in games that pay for every legal move."""


def rate(successes: int, n: int) -> Rate:
    """A proportion with its Wilson score interval (Wilson 1927, JASA 22).

    >>> print(rate(8, 10))
    80.0 [49.0, 94.3]
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be in 0..n and n at least 1, got {successes} of {n}")
    share, z2 = successes / n, _Z * _Z
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Rate(share, low, high, n)


def mean_interval(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Rate:
    """A mean with its Student t interval, cut at the bounds of the values; one value is its own interval."""
    n = len(values)
    if n < 1:
        raise ValueError("a mean needs at least 1 value, got 0")
    mean = fmean(values)
    if n == 1:
        return Rate(mean, mean, mean, 1)
    from scipy.stats import t

    half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Rate(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n)


def decision_rates(scores: Sequence[Score]) -> dict[str, Rate]:
    """The metrics of one policy under one way of decoding, from its scored decisions."""
    boards = [score for score in scores if score.board]
    described = [score.legal_as_perceived for score in scores if score.legal_as_perceived is not None]
    judged = [score for score in scores if score.regret is not None]
    found = {
        "legal_move_rate": _share(score.legal for score in scores),
        "progress_rate": _share(score.game_reward > 0 for score in scores),
        "format_rate": _share(score.well_formed for score in scores),
        "perception_board": _share(score.board for score in scores),
        "perception_cells": mean_interval([score.cells for score in scores], bounds=(0.0, 1.0)),
        "described_rate": _share(score.legal_as_perceived is not None for score in scores),
    }
    for name in ERRORS:
        shares = [score.perception.errors.get(name, 0) / score.perception.num_cells for score in scores]
        found[f"perception_error/{name}"] = mean_interval(shares, bounds=(0.0, 1.0))
    if boards:
        found["reasoning_given_perception"] = _share(score.legal for score in boards)
    if described:
        found["reasoning_as_perceived"] = _share(described)
    if judged:
        found["best_move_rate"] = _share(bool(score.tally.num_best) for score in judged)
        found["regret"] = mean_interval([score.regret or 0.0 for score in judged], bounds=(0.0, math.inf))
    return found


def _share(said: Iterable[bool]) -> Rate:
    """Of those that are true."""
    values = list(said)
    return rate(sum(values), len(values))


def write_summary(path: Path, results: Mapping[str, Mapping[str, PolicyResult]]) -> None:
    """Writes {"GAME/LEVEL": {policy: {"sampled" | "greedy": {metric: {"mean", "low", "high", "n"}}}}}."""
    summary = {
        game: {
            policy: {mode: {name: value._asdict() for name, value in rates.items()} for mode, rates in result.items()}
            for policy, result in of_game.items()
        }
        for game, of_game in results.items()
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def print_table(console: Console, game: str, results: Mapping[str, PolicyResult]) -> None:
    """Prints percentages with their intervals, a row per policy; in a narrow terminal, intervals below their means."""
    if not console.is_terminal:
        console = Console(file=console.file, width=PLAIN_WIDTH)
    table = _table(game, results, separator=" ")
    fits = Measurement.get(console, console.options.update(width=10 * PLAIN_WIDTH), table).maximum <= console.width
    console.print(table if fits else _table(game, results, separator="\n"))


def _table(game: str, results: Mapping[str, PolicyResult], separator: str) -> Table:
    """separator: what stands between a mean and its interval."""
    rates_of = [rates for result in results.values() for rates in result.values()]
    same = all(rates.get("progress_rate") in (None, rates["legal_move_rate"]) for rates in rates_of)
    columns = {name: place for name, place in TABLE_COLUMNS.items() if not (same and place[1] == "progress_rate")}
    table = Table(
        title=f"{game}, held-out states: % [95% interval]",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("policy", min_width=10)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    names = [*(name for name in TABLE_ROWS if name in results), *(name for name in results if name not in TABLE_ROWS)]
    for name in names:
        rates = (results[name].get(mode, {}).get(metric) for mode, metric in columns.values())
        cells = ("-" if found is None else separator.join(found.percentages) for found in rates)
        table.add_row(TABLE_ROWS.get(name, name), *cells)
    return table
