"""`vlmgym docs`: writes the pages of the games again, for whoever changes a game."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def docs(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pages go.")] = Path("docs/games"),
) -> None:
    """Writes a page per game, its pictures and the index, from the code. Names files there that belong to no game."""
    from vlmgym.game_pages import game_pages

    pages = game_pages()
    for name, content in pages.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"vlmgym: {len(pages)} files in {out}")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    for name in sorted(found - pages.keys()):
        print(f"vlmgym: {out / name} belongs to no game: delete it")
