"""What a decision tells about seeing and reasoning, since the platform knows the true board.

Pure functions of a game, the true state and the response. `Regrets` alone asks the solver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import eq
from typing import Any, NamedTuple

from vlmgym_envs.core import Game, InvalidAnswer
from vlmgym_policies.answers import Response

ERRORS: Mapping[str, str] = {
    "absent": "the perception block has no such cell",
    "surplus": "the block has more cells than the board",
    "malformed": "what stands there is no cell of this level",
    "shifted": "it is what stands one cell or one row aside, in a row that fits better there",
    "missing": "there is something, and the block says empty",
    "ghost": "the cell is empty, and the block says otherwise",
    "wrong_color": "the right shape in another color",
    "wrong_shape": "the right color in another shape",
    "wrong_tile": "something else, neither color nor shape right where there are such",
}
"""Ways to get a cell wrong. A cell counts under the first that fits, in this order."""

TOLERANCE = 1e-6
"""A regret up to this is none: values are sums of floats."""


class Perception(NamedTuple):
    """How a board was perceived. num_cells: of the board, or of the block where it has more. The rest is right."""

    num_cells: int
    errors: Mapping[str, int]

    @property
    def right(self) -> float:
        """Share of the cells perceived right."""
        return 1.0 - sum(self.errors.values()) / self.num_cells

    @property
    def board(self) -> bool:
        """The whole board perceived right."""
        return not self.errors


class CellError(NamedTuple):
    """A cell of the board perceived wrong. error: a key of `ERRORS`. written: what the block has there, if anything."""

    row: int
    col: int
    error: str
    written: str | None


def perceive(game: Game[Any, Any, Any], state: Any, response: Response) -> Perception:
    """Holds the perception block against the true board, cell by cell.

    >>> perceive(game, state, parse_response("<perception> Red circle | - </perception>")).errors  # truth: both circles
    {'missing': 1}
    """
    text = game.describe(state)
    truth = game.cells(text)
    num_true = sum(map(len, truth))
    if response.perception == text:
        return Perception(num_true, {})
    seen = _written(game, response)
    num_seen = sum(map(len, seen))
    errors = Counter(wrong.error for wrong in _wrong_cells(game, truth, seen))
    errors["surplus"] += max(0, num_seen - num_true)
    return Perception(max(num_true, num_seen), {name: errors[name] for name in ERRORS if errors[name]})


def cell_errors(game: Game[Any, Any, Any], state: Any, response: Response) -> list[CellError]:
    """What `perceive` counts, cell by cell in reading order; what is surplus has no cell of the board."""
    return list(_wrong_cells(game, game.cells(game.describe(state)), _written(game, response)))


def legal_as_perceived(game: Game[Any, Any, Any], response: Response) -> bool | None:
    """Whether the answer is legal on the board that the response itself describes; None where it describes none."""
    if response.perception is None:
        return None
    try:
        state = game.from_text(response.perception)
    except ValueError:
        return None
    return game.play(state, response.answer or "").refused is None


class Regrets:
    """What answers are worth less than the solver's action, in `Game.value_unit`.

    0 for an action that is worth as much, and for a better one, where the solver is no exact one. The solver is asked
    once per state, and once per answer what comes of it; all states are kept as long as this object.
    """

    def __init__(self, game: Game[Any, Any, Any]) -> None:
        self._game = game
        self._best: dict[Any, tuple[Any, float] | None] = {}

    def __call__(self, state: Any, answer: str | None) -> float | None:
        """None in a finished game."""
        best = self._solved(state)
        if best is None:
            return None
        return max(0.0, best[1] - self._game.value(state, _legal_action(self._game, state, answer)))

    def best_answer(self, state: Any) -> str | None:
        """The solver's action as an answer; None in a finished game."""
        best = self._solved(state)
        return None if best is None else self._game.format_answer(best[0])

    def _solved(self, state: Any) -> tuple[Any, float] | None:
        """The solver's action and its value."""
        if state not in self._best:
            action = self._game.solve(state)
            self._best[state] = None if action is None else (action, self._game.value(state, action))
        return self._best[state]


class Tally(NamedTuple):
    """Sums over decisions, so that shares over any set of them can be taken: add tallies, then ask for `rates`.

    num_boards: whole boards perceived right. num_described: blocks that describe a board, be it another one.
    num_judged: decisions whose regret is known, and regret their sum. num_best: legal ones of these without any.
    """

    num_decisions: int = 0
    num_legal: int = 0
    num_progress: int = 0
    num_well_formed: int = 0
    num_cells: int = 0
    errors: Mapping[str, int] = {}
    cells: float = 0.0
    num_boards: int = 0
    num_boards_legal: int = 0
    num_described: int = 0
    num_described_legal: int = 0
    num_judged: int = 0
    num_best: int = 0
    regret: float = 0.0

    def plus(self, other: Tally) -> Tally:
        sums = {name: getattr(self, name) + getattr(other, name) for name in self._fields if name != "errors"}
        return Tally(**sums, errors=Counter(self.errors) + Counter(other.errors))

    @property
    def rates(self) -> dict[str, float]:
        """Shares of the decisions, and of those that a name says; what has no such decision is left out."""
        n = self.num_decisions
        of_decisions = {
            "legal_move_rate": self.num_legal,
            "progress_rate": self.num_progress,
            "format_rate": self.num_well_formed,
            "perception_board": self.num_boards,
            "perception_cells": self.cells,
            "described_rate": self.num_described,
        }
        found = {name: number / n for name, number in of_decisions.items()} if n else {}
        if self.num_cells:
            found |= {f"perception_error/{name}": self.errors.get(name, 0) / self.num_cells for name in ERRORS}
        if self.num_boards:
            found["reasoning_given_perception"] = self.num_boards_legal / self.num_boards
        if self.num_described:
            found["reasoning_as_perceived"] = self.num_described_legal / self.num_described
        if self.num_judged:
            found["best_move_rate"] = self.num_best / self.num_judged
            found["regret"] = self.regret / self.num_judged
        return found


def tally(
    legal: bool,
    progress: bool,
    well_formed: bool,
    perception: Perception,
    as_perceived: bool | None,
    regret: float | None,
) -> Tally:
    """One decision. progress: the game paid for it. as_perceived: of `legal_as_perceived`. regret: None unjudged."""
    return Tally(
        num_decisions=1,
        num_legal=int(legal),
        num_progress=int(progress),
        num_well_formed=int(well_formed),
        num_cells=perception.num_cells,
        errors=perception.errors,
        cells=perception.right,
        num_boards=int(perception.board),
        num_boards_legal=int(perception.board and legal),
        num_described=int(as_perceived is not None),
        num_described_legal=int(bool(as_perceived)),
        num_judged=int(regret is not None),
        num_best=int(regret is not None and legal and regret <= TOLERANCE),
        regret=regret or 0.0,
    )


def _legal_action(game: Game[Any, Any, Any], state: Any, answer: str | None) -> Any:
    """The action that an answer names; None where it names none or the rules refuse it."""
    try:
        action = game.parse(answer or "")
    except InvalidAnswer:
        return None
    return action if game.step(state, action).refused is None else None


def _written(game: Game[Any, Any, Any], response: Response) -> list[list[str]]:
    """The cells of the perception block."""
    return [] if response.perception is None else game.cells(response.perception)


def _wrong_cells(
    game: Game[Any, Any, Any], truth: Sequence[Sequence[str]], seen: Sequence[Sequence[str]]
) -> Iterator[CellError]:
    for row, cells in enumerate(truth):
        written = seen[row] if row < len(seen) else ()
        wrong = [col for col in range(min(len(cells), len(written))) if written[col] != cells[col]]
        shift = _shift(game, truth, row, written) if wrong else None
        for col in wrong:
            error = _cell_error(game, cells[col], written[col], _cell(truth, row, col, shift))
            yield CellError(row, col, error, written[col])
        for col in range(len(written), len(cells)):
            yield CellError(row, col, "absent", None)


def _cell_error(game: Game[Any, Any, Any], true: str, written: str, aside: str | None) -> str:
    """aside: the true cell that the shift of the row points to, if it is shifted."""
    parts, true_parts = game.cell_parts(written), game.cell_parts(true)
    assert true_parts is not None, true
    if parts is None:
        return "malformed"
    if written == aside:
        return "shifted"
    if not parts:
        return "missing"
    if not true_parts:
        return "ghost"
    if len(parts) == 2 and parts[0] == true_parts[0]:
        return "wrong_shape"
    return "wrong_color" if len(parts) == 2 and parts[1] == true_parts[1] else "wrong_tile"


def _shift(
    game: Game[Any, Any, Any], truth: Sequence[Sequence[str]], row: int, written: Sequence[str]
) -> tuple[int, int] | None:
    """(rows, columns) to where a written row is taken from: where more of what it names stands than in place."""
    named = [cell if game.cell_parts(cell) else None for cell in written]
    in_place = truth[row]
    found = {
        (0, -1): _num_equal(named[1:], in_place),
        (0, 1): _num_equal(named, in_place[1:]),
        (-1, 0): _num_equal(named, truth[row - 1]) if row else 0,
        (1, 0): _num_equal(named, truth[row + 1]) if row + 1 < len(truth) else 0,
    }
    best = max(found, key=lambda shift: found[shift])
    return best if found[best] > _num_equal(named, in_place) else None


def _num_equal(cells: Sequence[str | None], others: Sequence[str]) -> int:
    return sum(map(eq, cells, others))


def _cell(truth: Sequence[Sequence[str]], row: int, col: int, shift: tuple[int, int] | None) -> str | None:
    """The true cell that lies `shift` away; None off the board and without a shift."""
    if shift is None:
        return None
    row, col = row + shift[0], col + shift[1]
    return truth[row][col] if 0 <= row < len(truth) and 0 <= col < len(truth[row]) else None
