"""Decides how wandb shows a project: a workspace and a report, built from the panels with wandb-workspaces."""

from __future__ import annotations

import re
from typing import Any

from vlmgym.tracking.panels import SECTIONS, Panel
from vlmgym.tracking.wandb_run import BOARDS, REPLAYS, ROLLOUTS

WORKSPACE_NAME = "vlmgym"
REPORT_TITLE = "vlmgym: what was learned"
MEDIA = (BOARDS, REPLAYS, ROLLOUTS)


def workspace(entity: str, project: str) -> Any:
    """A `wandb_workspaces.workspaces.Workspace`; `save()` needs a key, `to_json` does not."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    sections = [
        workspaces.Section(name=name, panels=[_line_plot(panel) for panel in panels], is_open=index < 3)
        for index, (name, panels) in enumerate(SECTIONS.items())
    ]
    media = reports.MediaBrowser(media_keys=[f"grpo/{key}" for key in MEDIA])
    sections.insert(3, workspaces.Section(name="Rollouts", panels=[media], is_open=True))
    return workspaces.Workspace(entity=entity, project=project, name=WORKSPACE_NAME, sections=sections)


def report(entity: str, project: str) -> Any:
    """A `wandb_workspaces.reports.v2.Report` with the same panels under headings, for all runs of the project."""
    import wandb_workspaces.reports.v2 as reports

    blocks: list[Any] = [reports.TableOfContents()]
    for name, panels in SECTIONS.items():
        grid = reports.PanelGrid(
            runsets=[reports.Runset(entity=entity, project=project)], panels=[_line_plot(panel) for panel in panels]
        )
        blocks += [reports.H2(name), grid]
    return reports.Report(entity=entity, project=project, title=REPORT_TITLE, blocks=blocks, width="fluid")


def to_json(view: Any) -> str:
    """What would be saved of a workspace or a report."""
    text: str = view._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)
    return text


def _line_plot(panel: Panel) -> Any:
    """A metric whose name has fields is drawn by a pattern: a line for each of its values."""
    import wandb_workspaces.reports.v2 as reports

    axes = {"title": panel.title, "x": f"{panel.stage}/step"}
    if any("{" in name for name in panel.metrics):
        return reports.LinePlot(**axes, metric_regex=metric_regex(panel))
    return reports.LinePlot(**axes, y=[f"{panel.stage}/{name}" for name in panel.metrics])


def metric_regex(panel: Panel) -> str:
    """Matches the recorded names of a panel's metrics, and no others."""
    names = "|".join(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(name)) for name in panel.metrics)
    return f"^{panel.stage}/({names})$"
