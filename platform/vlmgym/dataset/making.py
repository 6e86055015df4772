"""Makes a data set: draws starts, asks a teacher about each state once, keeps what stands the test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlmgym.dataset.directory import DataSet
from vlmgym.dataset.draft import Draft
from vlmgym.dataset.records import Counts, Recipe, SourceRecipe
from vlmgym.dataset.teaching import Asking, Teacher, open_teacher
from vlmgym.demonstrations import Start, rng_of, start_of
from vlmgym.errors import BadInput
from vlmgym_envs.core import Game

BATCHES_PER_REQUEST = 4
"""States asked at once, per request at a time: most requests need not wait for the slowest one of their batch."""
MAX_STALE_DRAWS = 1000
"""Draws in a row that give no new state before a level counts as exhausted."""
MAX_ASKED_PER_ROW = 20
"""States asked per row that is wanted, before a teacher counts as too weak."""


def make_data_set(recipe: Recipe, out: Path, asking: Asking, console: Console) -> DataSet:
    """Makes it, or goes on where a killed run stopped. Short of rows where a level or a teacher has no more to give.

    Errors: BadInput for what `Draft` and `open_teacher` refuse, and where a teacher does not answer at all.
    """
    draft = Draft(out, recipe)
    with _bars(console) as bars:
        for number, source in enumerate(recipe.sources):
            begun = draft.counts[number] if number < len(draft.counts) else Counts()
            task = bars.add_task(source.name, total=recipe.num_rows, completed=begun.kept)
            if number < len(draft.counts) - 1:
                continue  # the next source was begun when this one was done

            def show(counts: Counts, task: Any = task) -> None:
                bars.update(task, completed=counts.kept)

            asyncio.run(_Filling(draft, recipe, number, begun, show).fill(source, asking))
    return draft.finish()


class _Filling:
    """Fills one source of a draft."""

    def __init__(
        self, draft: Draft, recipe: Recipe, number: int, counts: Counts, show: Callable[[Counts], None]
    ) -> None:
        self._draft = draft
        self._recipe = recipe
        self._number = number
        self._counts = counts
        self._show = show
        self._num_stale = 0
        self._last_error: str | None = None

    async def fill(self, source: SourceRecipe, asking: Asking) -> None:
        game = source.make_game()
        async with open_teacher(source, self._recipe, game, asking) as teacher:
            while self._wants_more():
                before = self._counts
                starts = self._fresh_starts(source, game, asking.concurrency * BATCHES_PER_REQUEST)
                await self._ask(teacher, starts)
                self._check_it_answers(before, source, len(starts))
                self._draft.commit(self._counts, self._number)
                self._show(self._counts)
        self._draft.commit(self._counts, self._number)

    def _wants_more(self) -> bool:
        counts, num_rows = self._counts, self._recipe.num_rows
        is_exhausted = self._num_stale >= MAX_STALE_DRAWS
        return counts.kept < num_rows and counts.asked < MAX_ASKED_PER_ROW * num_rows and not is_exhausted

    def _fresh_starts(self, source: SourceRecipe, game: Game[Any, Any, Any], most: int) -> list[Start]:
        """The next starts in states that nobody was asked about, no more than rows are missing."""
        starts: list[Start] = []
        drawn, repeated, seen = self._counts.drawn, self._counts.repeated, self._draft.seen
        while len(starts) < min(most, self._recipe.num_rows - self._counts.kept) and self._num_stale < MAX_STALE_DRAWS:
            start = start_of(game, source.env, rng_of(self._recipe.seed, drawn))
            drawn += 1
            place = (source.game, source.level, game.key(start.state).hex())
            if place in seen:
                repeated, self._num_stale = repeated + 1, self._num_stale + 1
            else:
                seen.add(place)
                starts.append(start)
                self._num_stale = 0
        asked = self._counts.asked + len(starts)
        self._counts = self._counts.model_copy(update={"drawn": drawn, "repeated": repeated, "asked": asked})
        return starts

    async def _ask(self, teacher: Teacher, starts: list[Start]) -> None:
        rejected, kept = Counter(self._counts.rejected), self._counts.kept
        for answers, keeper in await teacher.answer_all(starts):
            for answer in answers:
                self._draft.reject(answer)
                rejected[answer.reason] += 1
                self._last_error = answer.error or self._last_error
            if keeper is not None:
                self._draft.add(keeper)
                kept += 1
        self._counts = self._counts.model_copy(update={"kept": kept, "rejected": dict(rejected)})

    def _check_it_answers(self, before: Counts, source: SourceRecipe, num_asked: int) -> None:
        failed = self._counts.rejected.get("failed", 0) - before.rejected.get("failed", 0)
        if num_asked and failed == num_asked * self._recipe.attempts:
            raise BadInput(
                f"teacher {source.teacher!r} answered none of {num_asked} questions: {self._last_error}; "
                f"the same command goes on where this one stopped"
            )


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
