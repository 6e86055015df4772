"""`vlmgym play`: a person plays a game in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer


def play(
    game: Annotated[str, typer.Argument(metavar="GAME", help="A game, as shisen_sho.", show_default=False)],
    level: Annotated[str, typer.Option(help="A named level; `vlmgym levels GAME` lists them.")] = "paper",
    seed: Annotated[int | None, typer.Option(min=0, help="Which start.  [default: any]", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="Change a knob of the level; repeatable.")
    ] = None,
) -> None:
    """Plays a game in the terminal, with the answers a model would give, and hints from the solver."""
    import secrets

    from rich.console import Console

    from vlmgym.errors import BadInput
    from vlmgym.terminal_game import TerminalGame
    from vlmgym_envs.registry import make_game

    try:
        made = make_game(game, level, **_knobs(overrides or []))
    except ValueError as error:
        raise BadInput(str(error)) from error
    TerminalGame(made, secrets.randbelow(1_000_000) if seed is None else seed, Console(highlight=False)).run()


def _knobs(overrides: Sequence[str]) -> dict[str, object]:
    """["rows=4", "solvable=false"] as {"rows": 4, "solvable": False}; ValueError for another form."""
    from vlmgym.yaml12 import parse_yaml

    knobs: dict[str, object] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not (name and equals):
            raise ValueError(f"--set takes knob=value, got {override!r}")
        knobs[name] = parse_yaml(value)
    return knobs
