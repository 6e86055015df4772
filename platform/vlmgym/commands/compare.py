"""`vlmgym compare`: evaluations side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="EVAL.json...", help="Two logs or more, or their directories.", show_default=False),
    ],
) -> None:
    """Prints evaluations side by side, and how each differs from the first where they started alike."""
    from rich.console import Console

    from vlmgym.errors import BadInput
    from vlmgym.evals.comparison import print_comparison
    from vlmgym.evals.log import read_log

    if len(logs) < 2:
        raise BadInput(f"compare takes at least two logs, got {len(logs)}")
    print_comparison(Console(highlight=False), {str(path): read_log(path) for path in logs})
