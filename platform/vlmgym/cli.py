"""Decides what the command line offers and how it says no: one line, exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from vlmgym import __version__
from vlmgym.commands.bench import bench
from vlmgym.commands.compare import compare
from vlmgym.commands.dashboard import dashboard
from vlmgym.commands.data import data
from vlmgym.commands.docs import docs
from vlmgym.commands.evaluate import evaluate
from vlmgym.commands.levels import levels
from vlmgym.commands.play import play
from vlmgym.commands.report import report
from vlmgym.commands.serve import serve
from vlmgym.commands.submit import PASS_ON, submit
from vlmgym.commands.train import train
from vlmgym.commands.view import view
from vlmgym.errors import BadInput

BAD_INPUT_CODE = 2
INTERRUPTED_CODE = 130

app = typer.Typer(
    name="vlmgym",
    help="Trains vision-language models with GRPO on visual games, on Ray RLlib.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command("eval")(evaluate)
app.command()(serve)
app.command(context_settings=PASS_ON)(submit)
app.command()(compare)
app.command()(report)
app.command()(view)
app.command()(levels)
app.command()(play)
app.command()(dashboard)
app.add_typer(data, name="data")
app.add_typer(bench, name="bench")
app.command(hidden=True)(docs)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `vlmgym`; a job file alone means the command that it is for."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if given[0].endswith((".yaml", ".yml")):
            given.insert(0, command_for(given[0]))
        code = app(given, prog_name="vlmgym", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED_CODE
    except typer.TyperException as error:
        code = _refuse(error.format_message())
    except BadInput as error:
        code = _refuse(str(error))
    sys.exit(code or 0)


def command_for(job_file: str) -> str:
    """`eval` for a job file that says what to evaluate, else `train`."""
    from vlmgym.evals.eval_file import is_eval_file

    return "eval" if is_eval_file(job_file) else "train"


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _vlmgym(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


def _refuse(message: str) -> int:
    """Says on one line of stderr what is wrong with the input; returns the exit code."""
    print(f"vlmgym: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT_CODE
