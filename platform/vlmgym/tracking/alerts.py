"""Decides when a run has collapsed: a metric beyond its bound for some iterations in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vlmgym.settings import AlertSettings


class Alert(NamedTuple):
    """title: the same for every alert of one kind."""

    title: str
    text: str


class _Rule(NamedTuple):
    """A metric that must not be beyond `bound`. falls: beyond is below, and only once it has been above."""

    metric: str
    title: str
    bound: float
    falls: bool

    def broken(self, value: float) -> bool:
        return value < self.bound if self.falls else not value <= self.bound


class Alarms:
    """Watches the metrics of one stage. A rule alerts once, and again only after it has been kept meanwhile.

    A format rate or an entropy that was never high has not collapsed: a model made from scratch begins there.
    """

    def __init__(self, settings: AlertSettings) -> None:
        rules = (
            ("kl", "KL exploded", settings.kl_above, False),
            ("entropy", "entropy collapsed", settings.entropy_below, True),
            ("format_rate", "format rate collapsed", settings.format_rate_below, True),
            ("logprob_mismatch/mean", "sampler and learner disagree", settings.logprob_mismatch_above, False),
        )
        self._rules = [_Rule(name, title, bound, falls) for name, title, bound, falls in rules if bound is not None]
        self._steps = settings.steps
        self._in_a_row = dict.fromkeys((rule.metric for rule in self._rules), 0)
        self._armed = {rule.metric for rule in self._rules if not rule.falls}
        self.num_alerts = 0

    def check(self, stage: str, step: int, metrics: Mapping[str, float]) -> list[Alert]:
        """What is to be said after a step. A value that is not a number breaks the rule that it must not exceed."""
        alerts = []
        for rule in self._rules:
            if rule.metric not in metrics:
                continue
            value = metrics[rule.metric]
            if not rule.broken(value):
                self._armed.add(rule.metric)
                self._in_a_row[rule.metric] = 0
            elif rule.metric in self._armed:
                self._in_a_row[rule.metric] += 1
                if self._in_a_row[rule.metric] == self._steps:
                    alerts.append(Alert(rule.title, self._text(rule, value, stage, step)))
        self.num_alerts += len(alerts)
        return alerts

    def _text(self, rule: _Rule, value: float, stage: str, step: int) -> str:
        side = "below" if rule.falls else "above"
        return f"{stage} {step}: {rule.metric} is {value:.4g}, {side} {rule.bound:g} for {self._steps} iteration(s)"
