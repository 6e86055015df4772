"""Which curves of a run a page draws together: the panels of the dashboards, as far as the run has recorded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmgym.tracking.metrics import find_metric
from vlmgym.tracking.panels import SECTIONS, Panel

Recorded = Mapping[str, Mapping[str, Any]]
"""stage -> metric -> its points."""


def curve_sections(recorded: Recorded) -> list[dict[str, Any]]:
    """[{"title", "panels": [{"title", "stage", "is_share", "curves": [[metric, label], ...]}]}]; without empty ones."""
    sections = []
    for title, panels in SECTIONS.items():
        found = [_panel(panel, recorded.get(panel.stage, {})) for panel in panels]
        sections.append({"title": title, "panels": [panel for panel in found if panel["curves"]]})
    return [section for section in sections if section["panels"]]


def _panel(panel: Panel, metrics: Mapping[str, Any]) -> dict[str, Any]:
    curves: list[tuple[str, str]] = []
    units = set()
    for name in metrics:
        metric, fields = find_metric(panel.stage, name) or (None, {})
        if metric is not None and metric.name in panel.metrics:
            curves.append((name, _label(panel.metrics, metric.name, fields)))
            units.add(metric.unit)
    return {"title": panel.title, "stage": panel.stage, "is_share": units == {"share"}, "curves": curves}


def _label(names: Sequence[str], name: str, fields: Mapping[str, str]) -> str:
    """What tells a curve from the others of its panel: none where there is one name without a field."""
    if fields:
        return " ".join(fields.values())
    if any("{" in other for other in names):
        return "training"
    return name.rpartition("/")[2].replace("_", " ") if len(names) > 1 else ""
