"""Decides how a game goes on that is watched while it is played, and what the page is told of it."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Any

from vlmgym.evals.protocol import answer_seed, points
from vlmgym.tracking.group_record import layout, read_turn
from vlmgym.viewer.sheet import data_url
from vlmgym_envs.core import Game, Step
from vlmgym_envs.registry import make_game
from vlmgym_policies.answers import parse_response
from vlmgym_policies.engine import Prompt
from vlmgym_policies.insight import Regrets
from vlmgym_policies.prompting import Observation, ask, png

MAX_GAMES = 16
NO_ANSWER = "the response has no <answer> block"


class LiveGame:
    """One game.

    busy: held while a response to its state is written.
    """

    def __init__(self, game: Game[Any, Any, Any], seed: int, observation: Observation) -> None:
        self.busy = threading.Lock()
        self._game = game
        self._seed = seed
        self._observation: Observation = observation
        self._regrets = Regrets(game)
        self._state = game.init(seed)
        self._score = 0.0
        self._num_turns = 0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        return self._is_over

    def question(self) -> tuple[Prompt, int]:
        """What the policy is asked now, and the seed of its answer."""
        prompt = ask(self._game, self._state, self._observation)
        return prompt, answer_seed(self._seed, 0, self._num_turns)

    def about(self) -> dict[str, Any]:
        """What holds for the whole game: how its boards are drawn, and how moves are counted."""
        game = self._game
        return {
            "game": game.id,
            "level": game.level_name,
            "seed": self._seed,
            "unit": game.value_unit,
            "tile_px": None,
            "border_px": 0,
            **layout(game),
        }

    def board(self) -> dict[str, Any]:
        """The present board: {"picture": data URL, "cells": what stands in each, row by row}."""
        game = self._game
        picture = data_url(png(game.render(self._state)))
        return {"picture": picture, "cells": game.cells(game.describe(self._state))}

    def play(self, response: str, *, cut: bool) -> dict[str, Any]:
        """Plays a response; what the page shows of the turn. A bad one costs a turn and leaves the board as it is.

        cut: it was stopped at the token limit.
        """
        game, state = self._game, self._state
        answer = parse_response(response).answer
        step = Step(state, 0.0, False, {"refused": NO_ANSWER}) if answer is None else game.play(state, answer)
        self._score += points(game.score, step.reward)
        self._num_turns += 1
        self._state, self._is_over = step.state, step.terminated
        read = read_turn(game, state, response)
        return {
            **read,
            "errors": [[wrong.row, wrong.col, wrong.error, wrong.written] for wrong in read["errors"]],
            "cut": cut,
            "refused": step.refused,
            "reward": step.reward,
            "best": self._regrets.best_answer(state),
            "regret": self._regrets(state, answer),
            "score": self._score,
            "over": step.terminated,
            "won": step.won,
        }


class LiveGames:
    """The games that are being watched, the last MAX_GAMES of them."""

    def __init__(self, observation: Observation) -> None:
        self._observation: Observation = observation
        self._games: OrderedDict[str, LiveGame] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, game: str, level: str, seed: int) -> tuple[str, LiveGame]:
        """A new game, and its name. Errors: ValueError for a game or a level that is none, and for a seed below 0."""
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        begun, name = LiveGame(make_game(game, level), seed, self._observation), secrets.token_hex(8)
        with self._lock:
            self._games[name] = begun
            while len(self._games) > MAX_GAMES:
                self._games.popitem(last=False)
        return name, begun

    def get(self, name: str) -> LiveGame:
        """Errors: KeyError for one that is gone."""
        with self._lock:
            return self._games[name]
