"""`vlmgym view`: a page that shows a run or an evaluation, or a served policy that plays."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from vlmgym.viewer.live.endpoint import Endpoint
    from vlmgym_policies.prompting import Observation

PAGE_FILE = "view.html"
MEBIBYTE = 2**20
_PLAY = "Live play"

Run = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Directory of a run or of an evaluation.", show_default=False)
]
Out = Annotated[Path | None, typer.Option(help="The page.", show_default=f"RUN/{PAGE_FILE}")]
Serve = Annotated[
    bool, typer.Option("--serve", help="Serve the page on this machine, made anew for every visit; write no file.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Of --serve and --play; 0 takes a free one.")]
Solver = Annotated[
    bool, typer.Option("--solver/--no-solver", help="Of an evaluation: ask the solver about every state.")
]
Play = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Watch a policy play instead: an endpoint of OpenAI's chat API, http://HOST:PORT/v1 or openai:MODEL@URL.",
        rich_help_panel=_PLAY,
        show_default=False,
    ),
]
FirstGame = Annotated[str, typer.Option(help="The first game; the page has them all.", rich_help_panel=_PLAY)]
Level = Annotated[str, typer.Option(help="Of the first game.", rich_help_panel=_PLAY)]
Seed = Annotated[int, typer.Option(min=0, help="Of the first game.", rich_help_panel=_PLAY)]
Shown = Annotated[
    Literal["picture", "text", "oracle"],
    typer.Option("--observation", help="What prompts show: picture, text, or both.", rich_help_panel=_PLAY),
]
Temperature = Annotated[float, typer.Option(min=0, help="Of the softmax; 0 decodes greedily.", rich_help_panel=_PLAY)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest response.", rich_help_panel=_PLAY)]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take.", rich_help_panel=_PLAY)]


def view(
    run: Run = None,
    out: Out = None,
    serve: Serve = False,
    port: Port = 8642,
    solver: Solver = True,
    play: Play = None,
    game: FirstGame = "shisen_sho",
    level: Level = "paper",
    seed: Seed = 0,
    observation: Shown = "picture",
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 1024,
    timeout: Timeout = 600.0,
) -> None:
    """Writes one HTML page, which needs no network: curves, groups of responses, episodes to replay.

    With --play, serves a page on which a policy is watched playing.
    """
    from vlmgym.errors import BadInput
    from vlmgym.viewer.live.endpoint import read_endpoint

    if (run is None) == (play is None):
        raise BadInput("view takes either RUN or --play URL")
    if play is not None:
        endpoint = read_endpoint(play, temperature=temperature, max_tokens=max_tokens, timeout_s=timeout)
        _serve_play(endpoint, game, level, seed, observation, port)
    elif run is not None and serve:
        _serve_page(run, port, solver)
    elif run is not None:
        _write_page(run, out or run / PAGE_FILE, solver)


def _write_page(run: Path, path: Path, solver: bool) -> None:
    from vlmgym.viewer.page import build_page
    from vlmgym.viewer.source import read_source

    source = read_source(run, ask_solver=solver)
    page = build_page(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    num_responses = sum(len(group.branches) for group in source.groups)
    size = f"{path.stat().st_size / MEBIBYTE:.1f} MiB"
    print(f"vlmgym: {len(source.groups)} groups, {num_responses} responses, {size}: {path}")


def _serve_page(run: Path, port: int, solver: bool) -> None:
    from vlmgym.viewer.page import build_page
    from vlmgym.viewer.server import PageServer
    from vlmgym.viewer.source import read_source

    read_source(run, ask_solver=solver)
    try:
        server = PageServer(lambda: build_page(read_source(run, ask_solver=solver)), port)
    except OSError as error:
        raise _port_error(port, error) from error
    _serve_until_ended(server, f"{run} at {server.url}")


def _serve_play(endpoint: Endpoint, game: str, level: str, seed: int, observation: Observation, port: int) -> None:
    from vlmgym.errors import BadInput
    from vlmgym.viewer.live.games import LiveGames
    from vlmgym.viewer.live.page import build_live_page
    from vlmgym.viewer.live.server import LiveServer
    from vlmgym_envs.registry import make_game

    try:
        make_game(game, level)
    except ValueError as error:
        raise BadInput(str(error)) from error
    try:
        server = LiveServer(build_live_page(game, level, seed), endpoint, LiveGames(observation), port)
    except OSError as error:
        raise _port_error(port, error) from error
    _serve_until_ended(server, f"{endpoint.url} plays at {server.url}")


def _serve_until_ended(server: ThreadingHTTPServer, what: str) -> None:
    print(f"vlmgym: {what}", flush=True)
    with server:
        server.serve_forever()


def _port_error(port: int, error: OSError) -> Exception:
    from vlmgym.errors import BadInput

    return BadInput(f"port {port} cannot be served: {error.strerror}")
