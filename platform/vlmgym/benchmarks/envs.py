"""Decides how the speed of games is measured: CPU time of stepping, and of the games' part of a training step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from statistics import median
from time import process_time
from typing import Any, NamedTuple, Protocol

import numpy as np

from vlmgym_envs.core import Game
from vlmgym_envs.gym import VLMGymEnv
from vlmgym_envs.names import unknown_name
from vlmgym_envs.registry import game_ids, level_ids, make_game
from vlmgym_envs.splits import draw_start
from vlmgym_policies.answers import write_response
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.prompting import png
from vlmgym_policies.scoring import RewardWeights, judge

NUM_ENVS = (1, 32)
NUM_STATES = 128
NUM_ANSWERS = 5
MAX_STEPS = 100
"""A game that has not ended by then starts again: the time limit of `VLMGymEnv`."""
REPEATS = 5
"""Each figure is the median of so many measurements, after one that is not counted."""
TRAINING_REPEATS = 3

LEVELS = ("paper", "large")

Chooser = Callable[[Any, np.random.Generator], Any]
"""state, generator -> action"""


class StepFigure(NamedTuple):
    """env_steps_per_cpu_s: steps of all `num_envs` environments together, resets included, per second of CPU time."""

    game: str
    level: str
    num_envs: int
    pictures: bool
    env_steps_per_cpu_s: float


class TrainingStepFigure(NamedTuple):
    """cpu_s: CPU seconds to draw `states` states and their pictures and to score `answers` answers to each."""

    game: str
    level: str
    states: int
    answers: int
    cpu_s: float


class TrainingStepParts(NamedTuple):
    """What a `TrainingStepFigure` consists of, CPU seconds. png_cpu_s, the pictures as PNG files, is not part of it."""

    game: str
    level: str
    draw_cpu_s: float
    picture_cpu_s: float
    score_cpu_s: float
    png_cpu_s: float


def levels_to_measure(games: Sequence[str], levels: Sequence[str]) -> list[tuple[str, str]]:
    """(game, level) pairs. No games: all; no levels: `paper`, `large` and what has a board of more cells than `paper`.

    Errors: ValueError for a game that does not exist, and for a level that none of the games has.
    """
    for game in games:
        if game not in game_ids():
            raise unknown_name("game", game, game_ids())
    chosen = games or game_ids()
    pairs = [(game, level) for game in chosen for level in level_ids(game)]
    for level in levels:
        if level not in {known for _, known in pairs}:
            raise unknown_name("level", level, sorted({known for _, known in pairs}))
    if levels:
        return [(game, level) for game, level in pairs if level in levels]
    return [pair for pair in pairs if pair[1] in LEVELS or _num_cells(*pair) > _num_cells(pair[0], "paper")]


class Figures(NamedTuple):
    """All that was measured. The names are the keys of the JSON form.

    step: uniform over all actions, few of them legal in most games. legal_step: uniform over the legal ones.
    """

    step: list[StepFigure]
    legal_step: list[StepFigure]
    training_step: list[TrainingStepFigure]
    training_step_parts: list[TrainingStepParts]

    def as_json(self) -> str:
        """{"step": [{"game": "swap", "level": "paper", ...}, ...], ...}"""
        return json.dumps({key: [row._asdict() for row in rows] for key, rows in self._asdict().items()}, indent=2)


def measure(pairs: Sequence[tuple[str, str]], seconds: float, progress: Callable[[int, int, str], None]) -> Figures:
    """Every figure of some (game, level) pairs. progress: called with done, total and what is next."""
    figures = Figures([], [], [], [])
    kinds = [
        (legal, num_envs, pictures) for legal in (False, True) for num_envs in NUM_ENVS for pictures in (False, True)
    ]
    total, done = len(pairs) * (len(kinds) + 1), 0
    for game_id, level in pairs:
        for legal, num_envs, pictures in kinds:
            progress(done, total, f"{game_id} {level}: steps")
            rows = figures.legal_step if legal else figures.step
            rows.append(measure_steps(game_id, level, num_envs, pictures=pictures, legal=legal, seconds=seconds))
            done += 1
        progress(done, total, f"{game_id} {level}: training step")
        whole, parts = measure_training_step(game_id, level)
        figures.training_step.append(whole)
        figures.training_step_parts.append(parts)
        done += 1
    progress(done, total, "")
    return figures


def measure_steps(
    game_id: str, level: str, num_envs: int, *, pictures: bool, legal: bool, seconds: float
) -> StepFigure:
    """Uniformly random actions, `legal`: among the legal ones, played round-robin in `num_envs` environments.

    pictures: through `VLMGymEnv`, whose observation is the picture; without: the rules alone. Choosing the actions is
    not measured. seconds: CPU time that the counted measurements take together.
    """
    make = _GymPlayer if pictures else _RulesPlayer
    players = [make(game_id, level, seed) for seed in range(num_envs)]
    game = players[0].game
    choose: Chooser = game.teachers["legal_random" if legal else "random"]
    rng = np.random.default_rng(0)
    rates = [_steps_per_cpu_s(players, choose, rng, seconds / REPEATS) for _ in range(1 + REPEATS)]
    return StepFigure(game_id, level, num_envs, pictures, round(median(rates[1:]), 1))


def measure_training_step(
    game_id: str, level: str, num_states: int = NUM_STATES, num_answers: int = NUM_ANSWERS
) -> tuple[TrainingStepFigure, TrainingStepParts]:
    """Draws mid-game states of the training split, draws their pictures, and scores `num_answers` answers to each.

    Writing the answers (see `sample_answers`) is not measured. The parts are those of the median measurement.
    """
    game = make_game(game_id, level)
    seeds = count()
    _measure_once(game, seeds, max(1, num_states // 16), num_answers)
    measured = sorted(
        (_measure_once(game, seeds, num_states, num_answers) for _ in range(TRAINING_REPEATS)),
        key=lambda parts: sum(parts[:3]),
    )
    parts = measured[TRAINING_REPEATS // 2]
    total = TrainingStepFigure(game_id, level, num_states, num_answers, round(sum(parts[:3]), 6))
    return total, TrainingStepParts(game_id, level, *(round(part, 6) for part in parts))


def sample_answers(game: Game[Any, Any, Any], state: Any, rng: np.random.Generator) -> Iterator[str]:
    """Responses as a model in training gives them, forever: of every five, two name a legal move, one of these after a
    misread board, one names any action, one names none, and one was cut off before its answer."""
    legal, anything = (Demonstrator(game, {teacher: 1.0}) for teacher in ("legal_random", "random"))
    board, other_board = game.describe(state), game.describe(game.init(0))
    while True:
        yield legal.demonstrate(state, rng)
        yield legal.demonstrate(state, rng).replace(board, other_board)
        yield anything.demonstrate(state, rng)
        yield write_response(board, "The board is hard to read.", "the first one")
        response = legal.demonstrate(state, rng)
        yield response[: response.rindex("<answer>")]


class _Player(Protocol):
    """One environment and the state it is in."""

    game: Game[Any, Any, Any]
    state: Any

    def encode(self, action: Any) -> Any:
        """The action in the form that `play` takes."""

    def play(self, action: Any) -> None:
        """Plays an action; starts again where the game has ended."""


class _GymPlayer:
    def __init__(self, game_id: str, level: str, seed: int) -> None:
        self._env = VLMGymEnv(game_id, level, max_steps=MAX_STEPS)
        self.game = self._env.game
        self.state = self._env.reset(seed=seed)[1]["state"]

    def encode(self, action: Any) -> Any:
        return self.game.to_space(action)

    def play(self, action: Any) -> None:
        _, _, terminated, truncated, info = self._env.step(action)
        if terminated or truncated:
            _, info = self._env.reset()
        self.state = info["state"]


class _RulesPlayer:
    def __init__(self, game_id: str, level: str, seed: int) -> None:
        self.game = make_game(game_id, level)
        self._seeds = count(seed, step=max(NUM_ENVS))
        self.state: Any
        self._num_steps: int
        self._start()

    def encode(self, action: Any) -> Any:
        return action

    def play(self, action: Any) -> None:
        step = self.game.step(self.state, action)
        self._num_steps += 1
        if step.terminated or self._num_steps == MAX_STEPS:
            self._start()
        else:
            self.state = step.state

    def _start(self) -> None:
        self.state = self.game.init(next(self._seeds))
        self._num_steps = 0


def _steps_per_cpu_s(players: Sequence[_Player], choose: Chooser, rng: np.random.Generator, seconds: float) -> float:
    """The clock runs while a round of steps, one per player, is played."""
    num_steps, cpu_s = 0, 0.0
    while cpu_s < seconds:
        actions = [player.encode(choose(player.state, rng)) for player in players]
        started_s = process_time()
        for player, action in zip(players, actions, strict=True):
            player.play(action)
        cpu_s += process_time() - started_s
        num_steps += len(players)
    return num_steps / cpu_s


def _measure_once(
    game: Game[Any, Any, Any], seeds: Iterator[int], num_states: int, num_answers: int
) -> tuple[float, float, float, float]:
    """CPU seconds: states, pictures, scores, PNG files. As in training, a picture is let go once it is encoded."""
    weights = RewardWeights.of(game.id)
    started_s = process_time()
    states = [draw_start(game, next(seeds), "mid_game", "train", 0.1) for _ in range(num_states)]
    draw_s = process_time() - started_s
    picture_s = png_s = 0.0
    for state in states:
        started_s = process_time()
        image = game.render(state)
        drawn_s = process_time()
        png(image)
        picture_s += drawn_s - started_s
        png_s += process_time() - drawn_s
    rng = np.random.default_rng(0)
    answers = [(state, text) for state in states for text in islice(sample_answers(game, state, rng), num_answers)]
    started_s = process_time()
    for state, text in answers:
        judge(game, state, text, weights)
    return draw_s, picture_s, process_time() - started_s, png_s


def _num_cells(game_id: str, level: str) -> int:
    game = make_game(game_id, level)
    return sum(map(len, game.cells(game.describe(game.init(0)))))
