"""Decides which games a data set is made of: from job files, and from games named on the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlmgym.dataset.records import SourceRecipe
from vlmgym.dataset.teaching import own_teachers
from vlmgym.errors import BadInput
from vlmgym.evals.policies import find_policy
from vlmgym.job import load_job
from vlmgym_envs.registry import make_game
from vlmgym_policies.scoring import RewardWeights

HELD_OUT = 0.1
SOLVER = "solver"


def find_sources(what: Sequence[str], teacher: str | None, held_out: float | None) -> tuple[SourceRecipe, ...]:
    """A source per game named. teacher: of all; None for that of the job, else the solver. held_out: likewise.

    Errors: BadInput for a job, a game, a level or a teacher that is none, and for a game named twice at one level.
    """
    named = None if teacher is None else _read_teacher(teacher)
    sources = [source for spec in what for source in _sources_of(spec, named, held_out)]
    for name, num in Counter(source.name for source in sources).items():
        if num > 1:
            raise BadInput(f"{name} is named {num} times")
    for source in sources:
        _check_teacher(source)
    return tuple(sources)


def _sources_of(spec: str, teacher: dict[str, float] | str | None, held_out: float | None) -> list[SourceRecipe]:
    if spec.endswith((".yaml", ".yml")):
        return _of_job(spec, teacher, held_out)
    game, _, level = spec.partition(":")
    try:
        made = make_game(game, level or "paper")
    except ValueError as error:
        raise BadInput(str(error)) from error
    weights = RewardWeights.of(game)
    return [
        SourceRecipe(
            game=game,
            level=made.level_name,
            held_out=HELD_OUT if held_out is None else held_out,
            teacher=SOLVER if teacher is None else teacher,
            reward={name: getattr(weights, name) for name in weights.__slots__},
        )
    ]


def _of_job(file: str, teacher: dict[str, float] | str | None, held_out: float | None) -> list[SourceRecipe]:
    """Every game of the job, at every level that its training can reach."""
    job = load_job(file)
    return [
        SourceRecipe(
            game=game.id,
            level=game.level,
            overrides={**game.overrides, **knobs},
            start=game.start,
            held_out=game.held_out if held_out is None else held_out,
            teacher=teacher or (None if job.cold_start is None else job.teacher(game)) or SOLVER,
            observation=job.prompt.observation,
            rule=game.reward.rule,
            reward=game.reward.model_dump(exclude={"rule"}),
        )
        for game in job.mixture
        for knobs in game.knobs_in_training()
    ]


def _read_teacher(text: str) -> dict[str, float] | str:
    """
    >>> _read_teacher("greedy=0.5,solver=0.5"), _read_teacher("solver")
    ({'greedy': 0.5, 'solver': 0.5}, 'solver')
    """
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name and equals for name, equals, _ in pairs) or "://" in text:
        return text
    try:
        return {name: float(weight) for name, _, weight in pairs}
    except ValueError as error:
        raise BadInput(f"--teacher takes name=weight, got {text!r}") from error


def _check_teacher(source: SourceRecipe) -> None:
    from vlmgym_policies.baselines import Demonstrator

    game = source.make_game()
    mixture = own_teachers(source.teacher, game)
    if mixture is None:
        assert isinstance(source.teacher, str)
        find_policy(source.teacher, game)
        return
    try:
        Demonstrator(game, mixture)
    except ValueError as error:
        raise BadInput(f"{source.name}: {error}") from error
