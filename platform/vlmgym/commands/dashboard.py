"""`vlmgym dashboard`: what it takes, where it writes, and when it saves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the JSON files go.")]
Project = Annotated[str, typer.Option(help="The wandb project, as in a job's tracking.project.")]
Entity = Annotated[
    str | None, typer.Option(help="The wandb team or user that it is saved for.", show_default="that of the key")
]

WORKSPACE_FILE = "wandb-workspace.json"
REPORT_FILE = "wandb-report.json"
GRAFANA_FILE = "grafana.json"


def dashboard(out: Out = Path("dashboards"), project: Project = "vlmgym", entity: Entity = None) -> None:
    """Builds the dashboards: a wandb workspace and report, saved where WANDB_API_KEY is set, and one for Grafana."""
    from vlmgym.errors import BadInput
    from vlmgym.tracking.grafana import grafana_dashboard
    from vlmgym.tracking.workspace import report, to_json, workspace

    try:
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput("vlmgym dashboard needs wandb-workspaces: pip install 'vlmgym[dashboard]'") from error
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    # With an owner, wandb-workspaces looks the project up, which takes a key.
    owner = (entity or _default_entity()) if has_key else ""
    views = {WORKSPACE_FILE: workspace(owner, project), REPORT_FILE: report(owner, project)}
    try:
        texts = {name: to_json(view) for name, view in views.items()}
    except ValueError as error:  # such as a project that no run was logged to yet
        raise BadInput(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text + "\n", encoding="utf-8")
    (out / GRAFANA_FILE).write_text(grafana_dashboard(), encoding="utf-8")
    print(f"vlmgym: {', '.join([*views, GRAFANA_FILE])} in {out}")
    if not has_key:
        print("vlmgym: WANDB_API_KEY is not set, so nothing was saved to wandb")
        return
    for view in views.values():
        view.save()
        print(f"vlmgym: saved {view.url}")


def _default_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity)
