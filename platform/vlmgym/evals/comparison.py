"""Decides when two evaluations may be compared run by run, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from vlmgym.evals.log import EvalLog, Evaluation, Interval
from vlmgym.evals.report import mean_interval
from vlmgym.evals.scores import print_scores, shown_score
from vlmgym.evals.summary import interval

COMPARED = ("score", "protocol", "max_steps", "seed")
"""What must be equal, besides game and knobs, for run i of both to start in the same state and count the same."""


def print_comparison(console: Console, logs: Mapping[str, EvalLog]) -> None:
    """One table, then a line per log after the first: the paired difference, or why there is none."""
    print_scores(console, "mean [95% interval] over runs", {name: log.summary for name, log in logs.items()})
    (first_name, first), *others = logs.items()
    for name, log in logs.items():
        console.print(f"{name}: {_what(log.evaluation)}", soft_wrap=True, markup=False)
    for name, log in others:
        console.print(f"{name} - {first_name}: {_difference(first, log)}", soft_wrap=True, markup=False)


def obstacles(one: Evaluation, other: Evaluation) -> list[str]:
    """Why two evaluations cannot be compared: each field that differs, as "max_steps 100 and 50"."""
    if one.game != other.game:
        return [f"game {one.game} and {other.game}"]
    pairs = [(knob, one.knobs.get(knob), other.knobs.get(knob)) for knob in {**one.knobs, **other.knobs}]
    pairs += [(name, getattr(one, name), getattr(other, name)) for name in COMPARED]
    return [f"{name} {old} and {new}" for name, old, new in pairs if old != new]


def paired_difference(one: EvalLog, other: EvalLog) -> Interval | None:
    """Score of `other` minus that of `one`, over the runs that failed in neither; None where there is none."""
    scores = {run.run: run.score for run in one.runs if run.error is None}
    pairs = [run.score - scores[run.run] for run in other.runs if run.error is None and run.run in scores]
    return interval(mean_interval(pairs)) if pairs else None


def _difference(one: EvalLog, other: EvalLog) -> str:
    if reasons := obstacles(one.evaluation, other.evaluation):
        return f"not comparable: {', '.join(reasons)}"
    found = paired_difference(one, other)
    if found is None:
        return "not comparable: no run without failure in both"
    return f"score {' '.join(shown_score(found)).rstrip()}, paired over {found.n} runs from equal starts"


def _what(evaluation: Evaluation) -> str:
    knobs = "".join(f", {name} {value}" for name, value in evaluation.overrides.items())
    return (
        f"{evaluation.policy.spec} on {evaluation.game}, {evaluation.level}{knobs}, protocol {evaluation.protocol}, "
        f"at most {evaluation.max_steps} steps, seed {evaluation.seed}"
    )
