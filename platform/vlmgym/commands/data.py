"""`vlmgym data`: makes a data set of demonstrations, and looks through one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vlmgym.dataset.inspection import Inspection
    from vlmgym.dataset.records import About, SourceRecipe

data = typer.Typer(help="Makes and inspects data sets of demonstrations for the cold start.", no_args_is_help=True)
_ASKED = "Teachers that are asked"
MIN_LINE_WIDTH = 120


What = Annotated[
    list[str],
    typer.Argument(
        metavar="JOB_OR_GAME...",
        help="Job files, or games as maze or maze:tiny. A job says how its game is played and rewarded.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="The data set.", show_default=False)]
Num = Annotated[int, typer.Option(min=1, help="Rows per game, and per level of a curriculum.")]
TeacherName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A teacher of the game, or several as greedy=0.5,solver=0.5; or who `vlmgym eval --policy` takes: "
        "openai:MODEL@URL, a model directory, module:function.",
        show_default="as the job's cold start, else solver",
    ),
]
Words = Annotated[Literal["sentences", "terse"], typer.Option(help="How teachers of the game reason.")]
Validation = Annotated[float, typer.Option(min=0, max=0.99, help="Share of the states for validation.")]
HeldOut = Annotated[
    float | None,
    typer.Option(min=0, max=0.99, help="Share of all states never drawn.", show_default="as the job says, else 0.1"),
]
MinReward = Annotated[
    float | None, typer.Option(help="Reject responses whose reward is below this.", show_default="none")
]
Seed = Annotated[int, typer.Option(min=0, help="Of starts, words, answers and splits.")]
Attempts = Annotated[int, typer.Option(min=1, help="Answers per state, until one is kept.", rich_help_panel=_ASKED)]
Temperature = Annotated[float, typer.Option(min=0, help="Of the softmax; 0 decodes greedily.", rich_help_panel=_ASKED)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest response.", rich_help_panel=_ASKED)]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at a time.", rich_help_panel=_ASKED)]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take.", rich_help_panel=_ASKED)]
Retries = Annotated[int, typer.Option(min=0, help="Of a request that was not answered.", rich_help_panel=_ASKED)]


@data.command()
def make(
    what: What,
    out: Out,
    num: Num = 1000,
    teacher: TeacherName = None,
    wording: Words = "sentences",
    validation: Validation = 0.05,
    held_out: HeldOut = None,
    min_reward: MinReward = None,
    seed: Seed = 0,
    attempts: Attempts = 1,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 1024,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    retries: Retries = 5,
) -> None:
    """Writes pictures, prompts and responses as a Hugging Face data set: each state once, held-out ones never.

    A run that was killed goes on when the same command is given again.
    """
    from rich.console import Console

    from vlmgym.dataset.making import make_data_set
    from vlmgym.dataset.records import Recipe
    from vlmgym.dataset.sources import find_sources
    from vlmgym.dataset.teaching import Asking

    recipe = Recipe(
        sources=find_sources(what, teacher, held_out),
        num_rows=num,
        seed=seed,
        validation=validation,
        wording=wording,
        min_reward=min_reward,
        attempts=attempts,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    console = Console(highlight=False)
    made = make_data_set(recipe, out, Asking(concurrency, timeout, retries), console)
    _tell(made.about, console)
    console.print(f"vlmgym: {out}", markup=False, soft_wrap=True)


@data.command()
def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A data set.", show_default=False)],
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Pictures of some rows.  [default: data-NAME.png]", show_default=False),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, max=100, help="On the sheet.")] = 12,
) -> None:
    """Counts rows, measures perception and moves anew, draws a sheet of pictures. Exit code 1 where rows are wrong."""
    from rich.console import Console

    from vlmgym.dataset.directory import DataSet
    from vlmgym.dataset.inspection import draw_sheet, inspect_data_set
    from vlmgym.errors import BadInput

    path = sheet or Path(f"data-{directory.resolve().name}.png")
    if path.suffix != ".png":
        raise BadInput(f"--sheet must end in .png, got {path}")
    found = DataSet(directory)
    inspection = inspect_data_set(found)
    console = Console(highlight=False)
    _print(inspection, console if console.is_terminal else Console(highlight=False, width=MIN_LINE_WIDTH))
    if inspection.parts:
        try:
            draw_sheet(found, path, pictures)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}") from error
        console.print(f"vlmgym: pictures of some rows in {path}", markup=False, soft_wrap=True)
    if inspection.faults:
        raise typer.Exit(1)


def _tell(about: About, console: Console) -> None:
    for source, counts in zip(about.recipe.sources, about.counts, strict=True):
        rejected = ", ".join(f"{num} {reason}" for reason, num in sorted(counts.rejected.items()))
        line = f"{source.name}: {counts.kept} rows of {counts.asked} states asked, {counts.repeated} draws repeated"
        console.print(f"{line}; rejected: {rejected or 'none'}", markup=False, soft_wrap=True)
        if counts.kept < about.recipe.num_rows:
            why = _why_short(source, counts.asked, about.recipe.num_rows)
            console.print(f"{source.name}: {counts.kept} of {about.recipe.num_rows} rows, {why}", soft_wrap=True)


def _why_short(source: SourceRecipe, num_asked: int, num_rows: int) -> str:
    from vlmgym.dataset.making import MAX_ASKED_PER_ROW

    if num_asked >= MAX_ASKED_PER_ROW * num_rows:
        return f"since the teacher failed in most of {num_asked} states"
    return "since the level has no more states"


def _print(inspection: Inspection, console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("game", "level", "split"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "reward", "board exact", "move legal", "reasonings"):
        table.add_column(name, justify="right")
    for part in inspection.parts:
        rates = (f"{part.reward:.2f}", f"{part.exact:.1%}", f"{part.legal:.1%}", str(part.num_wordings))
        table.add_row(part.game, part.level, part.split, str(part.num_rows), *rates)
    console.print(table)
    for name, rejected in inspection.rejected:
        told = ", ".join(f"{reason} {num}" for reason, num in sorted(rejected.items()))
        if told:
            console.print(f"{name}: rejected answers: {told}", soft_wrap=True)
    faults = ", ".join(f"{num} {name}" for name, num in inspection.faults.items())
    console.print(f"wrong: {faults}" if faults else "no state twice, none in two splits, none held out")
