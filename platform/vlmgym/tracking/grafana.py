"""Decides how Grafana shows a run: the panels over the gauges of Ray's Prometheus endpoint, a row per section."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vlmgym.tracking.metrics import METRICS, STEP, Metric
from vlmgym.tracking.panels import SECTIONS, Panel
from vlmgym.tracking.prometheus import RAY_PREFIX, gauge_name

TITLE = "vlmgym"
SCHEMA_VERSION = 39
NUM_COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 8
UNITS = {"share": "percentunit", "s": "s", "tokens/s": "short"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def grafana_dashboard() -> str:
    """The JSON that Grafana imports. It asks for the data source, and for the runs to show."""
    dashboard = {
        "title": TITLE,
        "uid": "vlmgym",
        "tags": ["vlmgym", "ray"],
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_panels()),
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _variables() -> list[dict[str, Any]]:
    step = RAY_PREFIX + gauge_name(Metric(STEP, "", ""))
    query = f"label_values({step}, run)"
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "run",
            "type": "query",
            "label": "Run",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": "run"},
            "definition": query,
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panels() -> Iterator[dict[str, Any]]:
    """A row for each section, its panels below it, three abreast."""
    number = y = 0
    for section, panels in SECTIONS.items():
        place = {"x": 0, "y": y, "w": NUM_COLUMNS, "h": 1}
        yield {"id": (number := number + 1), "type": "row", "title": section, "collapsed": False, "gridPos": place}
        y += 1
        for index, panel in enumerate(panels):
            row, column = divmod(index * PANEL_WIDTH, NUM_COLUMNS)
            place = {"x": column, "y": y + row * PANEL_HEIGHT, "w": PANEL_WIDTH, "h": PANEL_HEIGHT}
            yield {"id": (number := number + 1), "gridPos": place, **_panel(panel)}
        y += PANEL_HEIGHT * -(-len(panels) * PANEL_WIDTH // NUM_COLUMNS)


def _panel(panel: Panel) -> dict[str, Any]:
    declared = {metric.name: metric for metric in METRICS[panel.stage]}
    metrics = [declared[name] for name in panel.metrics]
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": "; ".join(f"{metric.name}: {metric.meaning}" for metric in metrics),
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": UNITS.get(metrics[0].unit, "short")}, "overrides": []},
        "targets": [_target(metric, panel.stage, chr(ord("A") + index)) for index, metric in enumerate(metrics)],
    }


def _target(metric: Metric, stage: str, letter: str) -> dict[str, Any]:
    legend = " ".join(["{{run}}", *(f"{{{{{name}}}}}" for name in metric.fields)])
    return {
        "refId": letter,
        "expr": f'{RAY_PREFIX}{gauge_name(metric)}{{run=~"$run",stage="{stage}"}}',
        "legendFormat": f"{legend} {metric.name.rpartition('}/')[2]}",
    }
