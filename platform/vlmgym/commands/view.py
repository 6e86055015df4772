"""`vlmgym view`: a page that shows a run or an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PAGE_FILE = "view.html"
MEBIBYTE = 2**20


def view(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a run or of an evaluation.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="The page.", show_default=f"RUN/{PAGE_FILE}")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on this machine, made anew for every visit; write no file.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0 takes a free one.")] = 8642,
    solver: Annotated[
        bool, typer.Option("--solver/--no-solver", help="Of an evaluation: ask the solver about every state.")
    ] = True,
) -> None:
    """Writes one HTML page, which needs no network: curves, groups of responses, episodes to replay."""
    from vlmgym.viewer.page import build_page
    from vlmgym.viewer.source import read_source

    source = read_source(run, ask_solver=solver)
    if serve:
        _serve(run, port, solver)
        return
    page = build_page(source)
    path = out or run / PAGE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    num_responses = sum(len(group.branches) for group in source.groups)
    size = f"{path.stat().st_size / MEBIBYTE:.1f} MiB"
    print(f"vlmgym: {len(source.groups)} groups, {num_responses} responses, {size}: {path}")


def _serve(run: Path, port: int, solver: bool) -> None:
    from vlmgym.errors import BadInput
    from vlmgym.viewer.page import build_page
    from vlmgym.viewer.server import PageServer
    from vlmgym.viewer.source import read_source

    try:
        server = PageServer(lambda: build_page(read_source(run, ask_solver=solver)), port)
    except OSError as error:
        raise BadInput(f"port {port} cannot be served: {error.strerror}") from error
    print(f"vlmgym: {run} at {server.url}", flush=True)
    with server:
        server.serve_forever()
