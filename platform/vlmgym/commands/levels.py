"""`vlmgym levels`: the ladder of a game's named levels as a table, and a picture of each on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vlmgym_envs.core import Game


def levels(
    game: Annotated[str, typer.Argument(metavar="GAME", help="A game, as shisen_sho.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The contact sheet.  [default: levels-GAME.png]", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which boards the sheet shows.")] = 0,
) -> None:
    """Prints the named levels of a game, easiest first, and draws a mid-game board of each on one sheet."""
    from rich.console import Console

    from vlmgym.errors import BadInput
    from vlmgym_envs.registry import level_ids, make_game

    path = out or Path(f"levels-{game}.png")
    if path.suffix != ".png":
        raise BadInput(f"--out must end in .png, got {path}")
    try:
        games = [make_game(game, level) for level in level_ids(game)]
    except ValueError as error:
        raise BadInput(str(error)) from error
    console = Console(highlight=False)
    _print_ladder(console if console.is_terminal else Console(highlight=False, width=120), games)
    _draw_sheet(path, games, seed)
    print(f"vlmgym: a board of each level in {path}")


def _print_ladder(console: Console, games: list[Game[Any, Any, Any]]) -> None:
    """A table per axis with the knobs that differ between levels; the others on a line each."""
    from rich import box
    from rich.table import Table

    from vlmgym.ladder import AXES, knobs, picture_size

    found = knobs(games[0])
    for axis in AXES:
        varying = [knob for knob in found if knob.axis == axis and knob.varies]
        if not varying:
            continue
        table = Table(title=axis.capitalize(), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("level", no_wrap=True)
        pictures = ["picture"] if axis == "perception" else []
        for name in [*pictures, *(knob.name for knob in varying)]:
            table.add_column(name, justify="right")
        for number, game in enumerate(games):
            sizes = [picture_size(game.image_shape) for _ in pictures]
            table.add_row(game.level_name, *sizes, *(str(knob.values[number]) for knob in varying))
        console.print(table)
        console.print()
    fixed = [f"{knob.name} {knob.values[0]}" for knob in found if not knob.varies]
    if fixed:
        console.print(f"The same at every level: {', '.join(fixed)}.", soft_wrap=True)


def _draw_sheet(path: Path, games: list[Game[Any, Any, Any]], seed: int) -> None:
    from vlmgym.contact_sheet import contact_sheet
    from vlmgym.errors import BadInput

    sheet = contact_sheet({game.level_name: game.render(game.mid_game(seed)) for game in games})
    try:
        sheet.save(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
