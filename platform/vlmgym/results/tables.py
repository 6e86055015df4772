"""Decides which tables tell of finished runs: what was run, how often moves are right, and what GRPO changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from vlmgym.evals.report import Rate
from vlmgym.held_out import GREEDY, SAMPLED
from vlmgym.results.difference import difference
from vlmgym.results.measured_run import MeasuredGame, MeasuredRun

NONE = ""
PAID = {"progress_rate": "moves that the game rewards", "legal_move_rate": "legal moves"}
POLICIES = {
    "random": "random",
    "legal_random": "legal random",
    "solver": "solver",
    "teacher": "teacher",
    "untrained": "untrained",
    "cold_start_best": "cold start, best",
    "cold_start": "cold start, end",
    "grpo": "after GRPO",
}
"""Rows, in order: names in summary.json -> what they are called."""

_TEACHERS = ("random", "legal_random", "solver", "teacher")
_SEEN = {
    "perception_board": "boards perceived",
    "perception_cells": "cells perceived",
    "reasoning_given_perception": "legal, board right",
    "reasoning_as_perceived": "legal, as perceived",
    "best_move_rate": "as good as the solver's",
}


class ResultTable(NamedTuple):
    """title: what it shows, in a line. The first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(runs: Sequence[MeasuredRun]) -> list[ResultTable]:
    places = list(dict.fromkeys(game.place for run in runs for game in run.games))
    found = [_runs(runs)]
    for place in places:
        measured = [(run, game) for run in runs if (game := run.game(place)) is not None]
        found += [_rates(place, measured), _gains(place, measured), _insight(place, measured)]
        found += _comparisons(place, measured)
    return [table for table in found if table.rows]


Measured = Sequence[tuple[MeasuredRun, MeasuredGame]]


def _runs(runs: Sequence[MeasuredRun]) -> ResultTable:
    head = ["run", "seed", "games", "cold start", "GRPO", "held-out boards", "minutes"]
    rows = []
    for run in runs:
        job = run.job
        cold_start = f"{job.cold_start.updates} x {job.cold_start.batch_size}" if job.cold_start else "none"
        grpo = f"{job.grpo.iterations} x {job.grpo.groups} x {job.grpo.group_size}"
        games = ", ".join(game.place for game in run.games)
        boards = str(job.evaluation.num_states)
        rows.append([run.name, str(job.seed), games, cold_start, grpo, boards, f"{run.minutes:.1f}"])
    return ResultTable(
        "The runs. Cold start: updates x demonstrations; GRPO: iterations x groups x branches", head, rows
    )


def _rates(place: str, measured: Measured) -> ResultTable:
    rows = []
    for policy, called in POLICIES.items():
        for mode in (SAMPLED,) if policy in _TEACHERS else (SAMPLED, GREEDY):
            rates = [game.rate(policy, mode) for _, game in measured]
            if any(rates):
                name = called if policy in _TEACHERS else f"{called}, {mode}"
                rows.append([name, *map(_shown, rates)])
    return ResultTable(f"{place}: {_paid(measured)} on held-out boards, % [95%]", ["", *_names(measured)], rows)


def _gains(place: str, measured: Measured) -> ResultTable:
    head = ["run", "decoding", "before GRPO", "after", "difference in points [95%]", "leaves 0 out"]
    rows = []
    for run, game in measured:
        for mode in (SAMPLED, GREEDY):
            before, after = game.rate(game.start, mode), game.rate("grpo", mode)
            if before is not None and after is not None:
                gain = difference(after, before)
                shown = [_shown(before), _shown(after), str(gain), "yes" if gain.is_significant else "no"]
                rows.append([run.name, mode, *shown])
    title = (
        f"{place}: what GRPO changed, from the best point of the cold start, or without one from the untrained model"
    )
    return ResultTable(title, head, rows)


def _insight(place: str, measured: Measured) -> ResultTable:
    rows = [
        [run.name, POLICIES[policy], *(_shown(game.rate(policy, SAMPLED, metric)) for metric in _SEEN)]
        for run, game in measured
        for policy in ("cold_start", "grpo")
        if policy in game.policies
    ]
    return ResultTable(
        f"{place}: seeing and reasoning apart, sampled, % [95%]", ["run", "policy", *_SEEN.values()], rows
    )


def _comparisons(place: str, measured: Measured) -> Iterator[ResultTable]:
    """Runs of different jobs and one seed, after GRPO."""
    rows = []
    for (one_run, one), (other_run, other) in combinations(measured, 2):
        if one_run.job.seed != other_run.job.seed or one_run.job.name == other_run.job.name:
            continue
        for mode in (SAMPLED, GREEDY):
            first, second = one.rate("grpo", mode), other.rate("grpo", mode)
            if first is not None and second is not None:
                found = difference(second, first)
                decided = "yes" if found.is_significant else "no"
                rows.append([f"{other_run.name} - {one_run.name}", mode, str(found), decided])
    head = ["runs", "decoding", "difference in points [95%]", "leaves 0 out"]
    yield ResultTable(f"{place}: {_paid(measured)} after GRPO, one run and another", head, rows)


def _paid(measured: Measured) -> str:
    return " or ".join(dict.fromkeys(PAID[game.paid_rate] for _, game in measured))


def _names(measured: Measured) -> list[str]:
    return [run.name for run, _ in measured]


def _shown(rate: Rate | None) -> str:
    return NONE if rate is None else str(rate)
