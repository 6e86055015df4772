"""Decides what eval.json holds: typed, with the version of its schema, one line per run.

A field left out has its default. Older readers refuse a newer version; a newer reader reads every older one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmgym.errors import BadInput
from vlmgym.evals.protocol import Protocol, ScoreRule
from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_policies.history import History
from vlmgym_policies.prompting import Observation

VERSION = 2
LOG_FILE = "eval.json"


class Record(BaseModel):
    """A frozen part of the log; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Policy(Record):
    """Who answers. spec: as it was asked for. name: a teacher, a model directory, a model, or module:function.

    fingerprint: of the files behind the name; where they change, it is another policy. engine: what decides how a
    model computes, such as {"dtype": "float32"}.
    """

    spec: str
    kind: Literal["teacher", "model", "endpoint", "function"]
    name: str
    url: str | None = None
    fingerprint: str | None = None
    engine: dict[str, str] = {}


class Evaluation(Record):
    """What is evaluated: equal ones give equal results.

    knobs: all of the level, overrides included. prompt: the game's, the same in every step. observation: what a prompt
    shows of the board. history: what it holds of earlier steps.
    """

    game: str
    level: str
    overrides: dict[str, Any]
    knobs: dict[str, Any]
    prompt: str
    observation: Observation = "picture"
    score: ScoreRule
    policy: Policy
    protocol: Protocol
    num_runs: int = Field(ge=1)
    max_steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    temperature: float = Field(ge=0)
    max_tokens: int = Field(ge=1)
    history: History = History()

    def make_game(self) -> Game[Any, Any, Any]:
        return make_game(self.game, self.level, **self.overrides)


class Tokens(Record):
    """Paid for, as the model or the endpoint counted them."""

    prompt: int
    completion: int


class StepLog(Record):
    """One decision. state: the perception text before it, None where it is that of the step before.

    reward: the game's own. refused: why the answer counted as an illegal move, which left the state as it was.
    well_formed: all three tag pairs. cells: share of the cells perceived right. cut: stopped at max_tokens.
    errors: cells perceived wrong, by class. legal_as_perceived, regret: as in `vlmgym_policies.insight`; None where
    the response describes no board, or an older version did not say.
    """

    state: str | None = None
    response: str
    reward: float
    refused: str | None = None
    well_formed: bool
    cells: float
    errors: dict[str, int] = {}
    legal_as_perceived: bool | None = None
    regret: float | None = None
    cut: bool = False
    tokens: Tokens | None = None

    @property
    def board(self) -> bool:
        """The whole board perceived right."""
        return self.cells == 1.0


class Shares(Record):
    """Of the steps of one run. cells, regret: means over its steps.

    reasoning: legal, of the steps whose board was perceived right. as_perceived: legal on the board that was described,
    of those that describe one. best: legal and worth as much as the solver's action. None where there is no such step.
    """

    illegal: float
    well_formed: float
    cells: float
    boards: float
    reasoning: float | None = None
    as_perceived: float | None = None
    best: float | None = None
    regret: float | None = None


class Outcome(Record):
    """How a run ended. shares: None without a step. errors: cells perceived wrong, by class. tokens: None where a step
    was not counted.

    error: why the run failed; such a run has no part in any mean.
    """

    run: int
    seed: int
    score: float
    num_steps: int
    terminated: bool
    won: bool | None = None
    shares: Shares | None = None
    errors: dict[str, int] = {}
    num_cut: int = 0
    tokens: Tokens | None = None
    error: str | None = None


class RunLog(Outcome):
    """A run and all its steps. end_state: the perception text after the last one."""

    steps: tuple[StepLog, ...]
    end_state: str

    @property
    def outcome(self) -> Outcome:
        return Outcome(**{name: getattr(self, name) for name in Outcome.model_fields})

    @property
    def states(self) -> list[str]:
        """The perception text before each step, and after the last."""
        texts: list[str] = []
        for step in self.steps:
            texts.append(texts[-1] if step.state is None else step.state)
        return [*texts, self.end_state]


class Interval(Record):
    """A mean over `n` runs and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int


class Summary(Record):
    """All runs together. Means are over the runs that did not fail: None where none is left.

    won: share of the runs, None where the game does not say. tokens: of all steps, None where one was not counted.
    errors: cells perceived wrong in all steps, by class.
    """

    num_runs: int
    num_failed: int
    num_steps: int
    num_cut: int
    score: Interval | None
    won: Interval | None
    illegal: Interval | None
    well_formed: Interval | None
    cells: Interval | None
    boards: Interval | None
    reasoning: Interval | None = None
    as_perceived: Interval | None = None
    best: Interval | None = None
    regret: Interval | None = None
    errors: dict[str, int] = {}
    tokens: Tokens | None


class EvalLog(Record):
    """Everything about one evaluation. ceilings: teachers under the same protocol and seeds."""

    version: int
    vlmgym: str
    finished_at: datetime
    evaluation: Evaluation
    summary: Summary
    ceilings: dict[str, Summary]
    runs: tuple[RunLog, ...]


def write_log(log: EvalLog, path: Path) -> None:
    """Writes the whole file or leaves it as it was."""
    head = log.model_dump(mode="json", exclude={"runs"})
    runs = ",\n".join(run.model_dump_json(exclude_defaults=True) for run in log.runs)
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    partial = path.with_suffix(".partial")
    partial.write_text(f'{text},\n "runs": [\n{runs}\n ]\n}}\n', encoding="utf-8")
    os.replace(partial, path)


def read_log(path: Path) -> EvalLog:
    """Reads a log, or the one in a directory.

    Errors: BadInput where there is none, it is of a newer version, or is not as this version says.
    """
    path = path / LOG_FILE if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{path} is no evaluation log: {error}") from error
    version = found.get("version") if isinstance(found, Mapping) else None
    if type(version) is not int:
        raise BadInput(f"{path} is no evaluation log: it has no version")
    if version > VERSION:
        raise BadInput(f"{path} has version {version}, this vlmgym reads up to {VERSION}: install a newer vlmgym")
    try:
        return EvalLog.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
