"""Decides how the runs of an evaluation become means with intervals: a run is one observation, its steps are not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vlmgym.evals.log import Interval, Outcome, Shares, StepLog, Summary, Tokens
from vlmgym.evals.report import Rate, mean_interval, rate
from vlmgym_policies.insight import TOLERANCE


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """Failed runs are counted and left out of every mean; their tokens were paid for and are counted.

    Student's interval for what a run has a value of, Wilson's for whether it was won.
    """
    done = [outcome for outcome in outcomes if outcome.error is None]
    shares = [outcome.shares for outcome in done if outcome.shares is not None]
    return Summary(
        num_runs=len(outcomes),
        num_failed=len(outcomes) - len(done),
        num_steps=sum(outcome.num_steps for outcome in outcomes),
        num_cut=sum(outcome.num_cut for outcome in outcomes),
        score=_mean([outcome.score for outcome in done], -math.inf, math.inf),
        won=_won(done),
        illegal=_mean([share.illegal for share in shares]),
        well_formed=_mean([share.well_formed for share in shares]),
        cells=_mean([share.cells for share in shares]),
        boards=_mean([share.boards for share in shares]),
        reasoning=_mean_of_known([share.reasoning for share in shares]),
        as_perceived=_mean_of_known([share.as_perceived for share in shares]),
        best=_mean_of_known([share.best for share in shares]),
        regret=_mean_of_known([share.regret for share in shares], high=math.inf),
        errors=sum_errors(outcome.errors for outcome in done),
        tokens=sum_tokens([outcome.tokens for outcome in outcomes if outcome.num_steps]),
    )


def shares_of(steps: Sequence[StepLog]) -> Shares | None:
    """What share of a run's steps was illegal, well formed, and perceived right."""
    n = len(steps)
    if not n:
        return None
    legal = [step.refused is None for step in steps]
    regrets = [step.regret for step in steps]
    return Shares(
        illegal=sum(step.refused is not None for step in steps) / n,
        well_formed=sum(step.well_formed for step in steps) / n,
        cells=math.fsum(step.cells for step in steps) / n,
        boards=sum(step.board for step in steps) / n,
        reasoning=_share([ok for ok, step in zip(legal, steps, strict=True) if step.board]),
        as_perceived=_share([step.legal_as_perceived for step in steps if step.legal_as_perceived is not None]),
        best=_share([ok and r <= TOLERANCE for ok, r in zip(legal, regrets, strict=True) if r is not None]),
        regret=_share([r for r in regrets if r is not None]),
    )


def sum_errors(errors: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by class, summed."""
    return dict(sum(map(Counter, errors), Counter[str]()))


def _share(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def sum_tokens(counts: Sequence[Tokens | None]) -> Tokens | None:
    """None where nothing was counted, or something was not."""
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    return Tokens(prompt=sum(count.prompt for count in known), completion=sum(count.completion for count in known))


def interval(found: Rate) -> Interval:
    return Interval(**found._asdict())


def _mean(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> Interval | None:
    return interval(mean_interval(values, (low, high))) if values else None


def _mean_of_known(values: Sequence[float | None], high: float = 1.0) -> Interval | None:
    """Over the runs that have a value."""
    return _mean([value for value in values if value is not None], high=high)


def _won(done: Sequence[Outcome]) -> Interval | None:
    """A run in which the game never said so, since no answer was legal, was not won."""
    if all(outcome.won is None for outcome in done):
        return None
    return interval(rate(sum(outcome.won is True for outcome in done), len(done)))
