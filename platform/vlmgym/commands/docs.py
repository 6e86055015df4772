"""`vlmgym docs`: writes the pages that come from the code again, for whoever changes a game or a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def docs(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pages of the games go.")] = Path("docs/games"),
) -> None:
    """Writes a page per game, its pictures and the index; beside them the pages of metrics, jobs and commands, and
    Grafana's dashboard.

    Names files among the games that belong to none.
    """
    from vlmgym.commands_page import commands_page
    from vlmgym.game_pages import game_pages
    from vlmgym.job_page import job_page
    from vlmgym.tracking.grafana import grafana_dashboard
    from vlmgym.tracking.page import metrics_page

    pages = game_pages()
    for name, content in pages.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"vlmgym: {len(pages)} files in {out}")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    for name in sorted(found - pages.keys()):
        print(f"vlmgym: {out / name} belongs to no game: delete it")
    beside = {
        "metrics.md": metrics_page,
        "grafana.json": grafana_dashboard,
        "jobs.md": job_page,
        "commands.md": commands_page,
    }
    for name, make in beside.items():
        (out.parent / name).write_text(make(), encoding="utf-8")
        print(f"vlmgym: {out.parent / name}")
