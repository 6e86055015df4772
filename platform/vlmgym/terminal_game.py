"""Decides how a person plays in a terminal: what is shown, what can be typed, and what each word does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlmgym.half_blocks import HalfBlocks
from vlmgym_envs.core import Game, InvalidAnswer
from vlmgym_policies.answers import parse_response

MAX_COLS = 100
MIN_LINES = 16
"""Of a picture: as wide as this at most, and at least as high as this where it has the pixels."""


class Turn(NamedTuple):
    """Where the player is: the state, the score so far as `Game.score` counts it, and whether the game has ended."""

    state: Any
    score: float
    ended: bool


class TerminalGame:
    """One person at one game. Answers are read by the game's own `parse`, as those of a model are.

    seed: the first start; `new` takes the next. read: returns a typed line and raises EOFError where there is none.
    """

    def __init__(
        self, game: Game[Any, Any, Any], seed: int, console: Console, read: Callable[[], str] | None = None
    ) -> None:
        self._game = game
        self._seed = seed
        self._console = console
        self._read = read or self._typed
        self._turns = [Turn(game.init(seed), 0.0, False)]
        self._words: dict[str, tuple[Callable[[], None], str]] = {
            "hint": (self._hint, "a move of the solver, and why"),
            "legal": (self._legal, "all legal moves"),
            "undo": (self._undo, "take the last move back"),
            "board": (self._show, "show the board again"),
            "text": (self._text, "the board as a model has to write it"),
            "rules": (self._rules, "what a model is told"),
            "new": (self._new, "another start"),
            "help": (self._help, "these words"),
        }

    def run(self) -> None:
        """Plays until `quit` or the end of the input."""
        self._help()
        self._begin()
        while (line := self._next_line()) not in (None, "quit"):
            if line in self._words:
                self._words[line][0]()
            elif line:
                self._play(line)
        self._say(f"Score {self._turn.score:g} after {self._num_moves}.")

    @property
    def _turn(self) -> Turn:
        return self._turns[-1]

    @property
    def _num_moves(self) -> str:
        num = len(self._turns) - 1
        return "1 move" if num == 1 else f"{num} moves"

    def _next_line(self) -> str | None:
        try:
            return self._read().strip()
        except EOFError:
            self._say("")
            return None

    def _typed(self) -> str:
        """A line of standard input; repeated where it is no terminal, so that what is printed can be followed."""
        line = input("> ")
        if not sys.stdin.isatty():
            self._say(line)
        return line

    def _play(self, answer: str) -> None:
        game, turn = self._game, self._turn
        if turn.ended:
            return self._say("The game has ended: new, undo or quit.")
        try:
            step = game.step(turn.state, game.parse(answer))
        except InvalidAnswer as error:
            return self._say(f"Not a move: {error}. A move is written as {self._answer_form}; help lists other words.")
        if step.refused is not None:
            return self._say(f"Refused: {step.refused}.")
        gain = step.reward if game.score == "reward_sum" else float(step.reward > 0)
        self._turns.append(Turn(step.state, turn.score + gain, step.terminated))
        self._show()
        self._say(f"Reward {step.reward:g}, score {self._turn.score:g} after {self._num_moves}.")
        if step.terminated:
            facts = ", ".join(f"{name} {value}" for name, value in step.info.items())
            self._say(f"The game has ended{f': {facts}' if facts else ''}. Type new, undo or quit.")

    def _hint(self) -> None:
        action = self._game.solve(self._turn.state)
        if action is None:
            return self._say("No move is legal.")
        self._say(
            f"{self._game.format_answer(action)}  because: {self._game.explain(self._turn.state, action).strip()}"
        )

    def _legal(self) -> None:
        moves = [self._game.format_answer(action) for action in self._game.legal_actions(self._turn.state)]
        self._say(f"{len(moves)} legal:")
        self._console.print(Columns([Text(move) for move in moves], padding=(0, 3)))

    def _undo(self) -> None:
        if len(self._turns) == 1:
            return self._say("Nothing to undo.")
        self._turns.pop()
        self._show()

    def _new(self) -> None:
        self._seed += 1
        self._turns = [Turn(self._game.init(self._seed), 0.0, False)]
        self._begin()

    def _begin(self) -> None:
        self._say(f"{self._game.id}, level {self._game.level_name}, seed {self._seed}.")
        self._show()

    def _show(self) -> None:
        """The picture, where the terminal has colors, and the board's text as a table with the numbers of its cells."""
        state = self._turn.state
        rows = self._game.cells(self._game.describe(state))
        console = self._console
        if console.color_system is not None and not console.no_color:
            room = console.height - len(rows) - 6
            console.print(HalfBlocks(self._game.render(state), min(MAX_COLS, console.width), max(MIN_LINES, room)))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("")
        for col in range(len(rows[0])):
            table.add_column(str(col))
        for number, row in enumerate(rows):
            table.add_row(str(number), *map(Text, row))
        console.print(table)

    def _text(self) -> None:
        self._say(self._game.describe(self._turn.state))

    def _rules(self) -> None:
        self._say(self._game.prompt)

    def _help(self) -> None:
        self._say(f"Type a move as {self._answer_form}, or one of these words:")
        for word, (_, meaning) in self._words.items():
            self._say(f"  {word:6} {meaning}")
        self._say(f"  {'quit':6} leave; Ctrl-D does too")

    @property
    def _answer_form(self) -> str:
        """How a move is written, as the game's prompt has it."""
        return parse_response(self._game.prompt).answer or "the prompt says"

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
