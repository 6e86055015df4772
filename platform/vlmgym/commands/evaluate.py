"""`vlmgym eval`: what it takes, in which order it checks, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from vlmgym.evals.evaluation import Conduct
    from vlmgym.evals.log import EvalLog, Evaluation

DEFAULT_MAX_TOKENS = 8192
FAILED_RUNS_CODE = 1

_MODELS = "Models, endpoints and functions"


def _read_job_file(context: typer.Context, path: Path | None) -> Path | None:
    """Options that are not given have the values of the file."""
    if path is not None:
        from vlmgym.evals.eval_file import read_eval_file

        names = {
            option.lstrip("-").replace("-", "_"): parameter.name
            for parameter in context.command.params
            for option in parameter.opts
            if option.startswith("--")
        }
        context.default_map = {names[option]: value for option, value in read_eval_file(path, names).items()}
    return path


JobFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="JOB.yaml",
        help="A job file with these options, under `evaluate`.",
        show_default=False,
        is_eager=True,
        callback=_read_job_file,
    ),
]
Game = Annotated[
    str | None,
    typer.Option(
        help="The game, as shisen_sho. A model in a run directory plays every game of its job, each at its level.",
        show_default=False,
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        help="random, legal_random, greedy, solver or another teacher of the game; a model, checkpoint or run "
        "directory; openai:MODEL@URL, with its key in OPENAI_API_KEY; module:function.",
        show_default=False,
    ),
]
Out = Annotated[
    Path, typer.Option(help="Directory of the results. An interrupted evaluation goes on there.", show_default=False)
]
Level = Annotated[str | None, typer.Option(help="A named level of the game.", show_default="paper")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="Change a knob of the level; repeatable.")
]
Protocol = Annotated[
    Literal["paper", "full"], typer.Option(help="paper: at most 100 steps; full: to the end of the game.")
]
Runs = Annotated[int, typer.Option(min=1, help="Games to play, all at once.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of a run at most.", show_default="paper 100, full 10000")]
Seed = Annotated[int, typer.Option(min=0, help="Of the starts and the answers.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of the softmax; 0 decodes greedily.", rich_help_panel=_MODELS)]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Longest response. A model in a run directory has that of its job.",
        show_default=str(DEFAULT_MAX_TOKENS),
        rich_help_panel=_MODELS,
    ),
]
Shown = Annotated[
    Literal["picture", "text", "oracle"] | None,
    typer.Option(
        "--observation",
        help="What prompts show: the picture, the board as text, or both. A model in a run directory has that of its "
        "job.",
        show_default="picture",
        rich_help_panel=_MODELS,
    ),
]
HistoryTurns = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="Earlier steps in a prompt. A model in a run directory has what its job says.",
        show_default="0",
        rich_help_panel=_MODELS,
    ),
]
HistoryPictures = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="How many of these steps, the last ones, keep their picture.",
        show_default="all",
        rich_help_panel=_MODELS,
    ),
]
Concurrency = Annotated[
    int, typer.Option(min=1, help="Requests at a time, or prompts of a batch.", rich_help_panel=_MODELS)
]
Timeout = Annotated[
    float, typer.Option(min=0.001, help="Seconds that a request to an endpoint may take.", rich_help_panel=_MODELS)
]
Retries = Annotated[
    int, typer.Option(min=0, help="Of a request that an endpoint did not answer.", rich_help_panel=_MODELS)
]
Ceilings = Annotated[bool, typer.Option("--ceilings/--no-ceilings", help="Play legal_random, greedy and solver too.")]
Video = Annotated[
    bool | None,
    typer.Option("--video/--no-video", help="An mp4 of every run, or of none.", show_default="of the first 10"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be evaluated; play nothing.")]


def evaluate(
    policy: Policy,
    out: Out,
    job_file: JobFile = None,
    game: Game = None,
    level: Level = None,
    overrides: Overrides = None,
    protocol: Protocol = "paper",
    runs: Runs = 10,
    steps: Steps = None,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = None,
    observation: Shown = None,
    history_turns: HistoryTurns = None,
    history_pictures: HistoryPictures = None,
    concurrency: Concurrency = 32,
    timeout: Timeout = 600.0,
    retries: Retries = 5,
    ceilings: Ceilings = True,
    video: Video = None,
    dry_run: DryRun = False,
) -> None:
    """Plays games with a policy and tells its score beside those of the game's teachers."""
    from vlmgym.evals.evaluation import MAX_VIDEOS, Conduct
    from vlmgym.evals.protocol import MAX_STEPS
    from vlmgym.evals.targets import AsTrained, evaluation_of, find_targets
    from vlmgym.home import at_home

    policy, out = _at_home(policy), Path(at_home(str(out)))
    num_videos = {None: MAX_VIDEOS, True: runs, False: 0}[video]
    conduct = Conduct(concurrency, timeout, retries, ceilings, num_videos)
    asked = {
        "protocol": protocol,
        "num_runs": runs,
        "max_steps": steps or MAX_STEPS[protocol],
        "seed": seed,
        "temperature": temperature,
    }
    as_trained = AsTrained(max_tokens, DEFAULT_MAX_TOKENS, observation, history_turns, history_pictures)
    num_failed = 0
    for target in find_targets(game, level, dict(map(_knob, overrides or [])), policy, out):
        evaluation = evaluation_of(target, policy, as_trained, asked)
        if dry_run:
            _plan(evaluation, conduct, target.out)
        else:
            num_failed += _carry_out(evaluation, conduct, target.out)
    if num_failed:
        raise typer.Exit(FAILED_RUNS_CODE)


def _at_home(policy: str) -> str:
    """A policy of another kind than a directory is left as it is."""
    from vlmgym.home import at_home

    return at_home(policy) if Path(at_home(policy)).is_dir() else policy


def _knob(text: str) -> tuple[str, Any]:
    from vlmgym.errors import BadInput
    from vlmgym.yaml12 import parse_yaml

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"--set takes knob=value, got {text!r}")
    try:
        return name.strip(), parse_yaml(value)
    except ValueError as error:
        raise BadInput(f"--set {name}: {error}") from error


def _plan(evaluation: Evaluation, conduct: Conduct, out: Path) -> None:
    from vlmgym.evals.evaluation_dir import check_dir
    from vlmgym.evals.protocol import CEILINGS, start_seed

    check_dir(out, evaluation)
    policy = evaluation.policy
    knobs = ", ".join(f"{name} {value}" for name, value in evaluation.knobs.items())
    engine = "".join(f", {name} {value}" for name, value in policy.engine.items())
    print(f"game         {evaluation.game}, level {evaluation.level}: {knobs}")
    print(f"policy       {policy.kind} {policy.name}{f' at {policy.url}' if policy.url else ''}{engine}")
    print(f"protocol     {evaluation.protocol}: {evaluation.num_runs} runs of at most {evaluation.max_steps} steps")
    print(f"score        {evaluation.score}")
    print(f"starts       seed {evaluation.seed}: run 0 at {start_seed(evaluation.seed, 0)}")
    print(f"responses    temperature {evaluation.temperature:g}, at most {evaluation.max_tokens} tokens")
    print(f"observation  {evaluation.observation}")
    print(f"history      {evaluation.history.turns} earlier steps, {evaluation.history.pictures} of them with picture")
    print(f"ceilings     {', '.join(CEILINGS) if conduct.ceilings else 'none'}")
    print(f"videos       {min(conduct.num_videos, evaluation.num_runs)}")
    print(f"results      {out}")


def _carry_out(evaluation: Evaluation, conduct: Conduct, out: Path) -> int:
    """Returns how many runs failed."""
    from rich.console import Console

    from vlmgym.errors import BadInput
    from vlmgym.evals.evaluation import carry_out
    from vlmgym.evals.scores import print_insight, print_scores
    from vlmgym_policies.engines.function import WrongAnswers

    console = Console(highlight=False)
    try:
        log = carry_out(evaluation, out, conduct, console)
    except WrongAnswers as error:
        raise BadInput(str(error)) from error
    title = f"{evaluation.game}, {evaluation.level}: mean [95% interval] over runs, protocol {evaluation.protocol}"
    rows = {evaluation.policy.spec: log.summary, **log.ceilings}
    print_scores(console, title, rows)
    print_insight(console, rows, evaluation.make_game().value_unit)
    for line in _remarks(log):
        print(f"vlmgym: {line}")
    print(f"vlmgym: results in {out}")
    return log.summary.num_failed


def _remarks(log: EvalLog) -> list[str]:
    """What the table has no column for."""
    summary, lines = log.summary, []
    if summary.errors:
        wrong = sum(summary.errors.values())
        kinds = sorted(summary.errors.items(), key=lambda kind: -kind[1])
        shown = ", ".join(f"{name} {count / wrong:.0%}" for name, count in kinds)
        lines.append(f"cells perceived wrong: {wrong}; of these {shown}")
    if summary.tokens is not None:
        lines.append(f"{summary.tokens.prompt} prompt tokens and {summary.tokens.completion} response tokens")
    if summary.num_cut:
        cut = f"{summary.num_cut} of {summary.num_steps} responses"
        lines.append(f"{cut} were cut at {log.evaluation.max_tokens} tokens")
    if summary.num_failed:
        error = next(run.error for run in log.runs if run.error is not None)
        lines.append(
            f"{summary.num_failed} of {summary.num_runs} runs failed and are in no mean; the first: {error}; "
            "the same command goes on with them"
        )
    return lines
