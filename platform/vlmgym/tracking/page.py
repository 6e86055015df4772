"""Decides what docs/metrics.md says: written from the metrics as they are declared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmgym.curves import COLD_START, GRPO
from vlmgym.markdown import markdown_table
from vlmgym.tracking.metrics import EVALUATION, FIELDS, METRICS, STEPS, Metric
from vlmgym_envs.registry import game_ids, make_game

_HEAD = """\
<!-- Written by `vlmgym docs` from platform/vlmgym/tracking/metrics.py; change it there. -->
# Metrics

A run records numbers step by step: `STAGE/NAME` over `STAGE/step`. Each is declared once, in
[`metrics.py`](../platform/vlmgym/tracking/metrics.py), and a test trains for some seconds and finds every one of them
in the wandb run. Where they go is told in [tracking.md](tracking.md), how perception and reasoning are measured in
[insight.md](insight.md).
"""


def metrics_page() -> str:
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    yield "## Names\n"
    stages = [(f"`{stage}`", meaning) for stage, meaning in STEPS.items()]
    yield markdown_table(("stage", "its step counts"), stages) + "\n"
    fields = [(f"`{{{name}}}`", meaning) for name, meaning in FIELDS.items()]
    yield markdown_table(("in braces", "stands for"), fields) + "\n"
    yield "## Regret\n\nIts unit is the game's:\n"
    units = [(f"[{game}](games/{game}.md)", make_game(game, "tiny").value_unit) for game in game_ids()]
    yield markdown_table(("game", "regret counts"), units) + "\n"
    evaluation = set(EVALUATION)
    for stage in (GRPO, COLD_START):
        yield f"## Of {stage}\n"
        yield from _metrics_table([metric for metric in METRICS[stage] if metric not in evaluation])
    yield "## Of evaluations\n\nOn held-out states, in both stages.\n"
    yield from _metrics_table(EVALUATION)


def _metrics_table(metrics: Sequence[Metric]) -> Iterator[str]:
    rows = [
        (f"`{metric.name}`", metric.unit, metric.meaning, metric.known_as, metric.only or "every step")
        for metric in metrics
    ]
    yield markdown_table(("name", "unit", "is", "elsewhere", "recorded"), rows) + "\n"
