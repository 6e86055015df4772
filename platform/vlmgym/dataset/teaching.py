"""Decides who answers for a data set, and which answers are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from vlmgym.dataset.directory import IMAGES_DIR, chat_of
from vlmgym.dataset.records import Recipe, RejectedAnswer, Row, SourceRecipe
from vlmgym.demonstrations import Start
from vlmgym.evals.policies import find_policy, open_engine
from vlmgym_envs.core import Game
from vlmgym_policies.answers import parse_response, write_response
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Engine, GenerationError, Prompt, Sampling, make_engine
from vlmgym_policies.prompting import ask, png


class Asking(NamedTuple):
    """How a teacher that is not the game's own is asked: most requests at a time, and as `OpenAIEngine` says."""

    concurrency: int = 16
    timeout_s: float = 600.0
    max_retries: int = 5


class KeptAnswer(NamedTuple):
    """A row, and the PNG of its state."""

    row: Row
    image: bytes


Answers = tuple[Sequence[RejectedAnswer], KeptAnswer | None]
"""What a teacher answered in one state: what was rejected, then what is kept, if anything."""


class Teacher:
    """Answers for one source of a data set, and judges its own answers by the rules.

    own: it is one of the game's own, who are imitated as they are, mistakes included: only `min_reward` can reject
    what they say. Of others, only legal moves are kept, and exact perception.
    """

    def __init__(self, source: SourceRecipe, recipe: Recipe, game: Game[Any, Any, Any], engine: Engine, own: bool):
        self._source = source
        self._recipe = recipe
        self._game = game
        self._engine = engine
        self._own = own
        self._name = source.teacher if isinstance(source.teacher, str) else _mixture_name(source.teacher)

    async def answer_all(self, starts: Sequence[Start]) -> list[Answers]:
        """In the order of the starts; all are asked at once."""
        return list(await asyncio.gather(*(self._answer(start) for start in starts)))

    async def _answer(self, start: Start) -> Answers:
        image = self._game.render(start.state)
        prompt = ask(self._game, start.state, self._source.observation, image)
        shown = prompt.images[0] if prompt.images else png(image)
        seeds = start.rng.integers(2**31, size=self._recipe.attempts)
        rejected: list[RejectedAnswer] = []
        for seed in seeds.tolist():
            answer = await self._attempt(start, prompt, seed)
            if isinstance(answer, Row):
                return rejected, KeptAnswer(answer, shown)
            rejected.append(answer)
        return rejected, None

    async def _attempt(self, start: Start, prompt: Prompt, seed: int) -> Row | RejectedAnswer:
        recipe = self._recipe
        sampling = Sampling(recipe.temperature, recipe.max_tokens, seed)
        try:
            (completion,) = await self._engine.generate([prompt], sampling)
        except GenerationError as error:
            return self._rejected(start, "failed", error=str(error))
        if completion.finish_reason == "length":
            return self._rejected(start, "cut", completion.text)
        return self._judge(start, prompt, completion.text)

    def _judge(self, start: Start, prompt: Prompt, text: str) -> Row | RejectedAnswer:
        """A kept answer is written anew, so that nothing stands around its blocks."""
        game, source, response = self._game, self._source, parse_response(text)
        step = game.play(start.state, response.answer or "")
        legal = step.refused is None
        score = source.weights.score(game, start.state, response, source.env.reward_of(step), legal)
        rejections = {
            "malformed": not response.well_formed,
            "perception": not self._own and not score.board,
            "refused": not self._own and not legal,
            "reward": self._recipe.min_reward is not None and score.reward < self._recipe.min_reward,
        }
        for reason, holds in rejections.items():
            if holds:
                return self._rejected(start, reason, text, score.reward)
        perception, think, action = (block or "" for block in response)
        key = game.key(start.state).hex()
        return Row(
            file_name=f"{IMAGES_DIR}/{source.game}-{source.level}-{key}.png",
            game=source.game,
            level=source.level,
            overrides=json.dumps(source.overrides, sort_keys=True),
            seed=start.seed,
            key=key,
            state=game.describe(start.state),
            teacher=self._name,
            prompt=chat_of(prompt),
            response=write_response(perception, think, action),
            perception=perception,
            think=think,
            action=action.strip(),
            reward=score.reward,
            game_reward=score.game_reward,
            legal=legal,
            cells=score.cells,
        )

    def _rejected(
        self, start: Start, reason: str, text: str = "", reward: float | None = None, error: str | None = None
    ) -> RejectedAnswer:
        return RejectedAnswer(
            game=self._source.game,
            level=self._source.level,
            seed=start.seed,
            key=self._game.key(start.state).hex(),
            reason=reason,
            response=text,
            reward=reward,
            error=error,
        )


@asynccontextmanager
async def open_teacher(
    source: SourceRecipe, recipe: Recipe, game: Game[Any, Any, Any], asking: Asking
) -> AsyncIterator[Teacher]:
    """The teacher of a source, while the block runs. Errors: BadInput where nobody has that name or it cannot start."""
    mixture = own_teachers(source.teacher, game)
    if mixture is not None:
        writer = Demonstrator(game, mixture, recipe.wording)
        yield Teacher(source, recipe, game, make_engine("scripted", writer=writer), own=True)
        return
    assert isinstance(source.teacher, str)
    policy = find_policy(source.teacher, game)
    async with open_engine(policy, game, **asking._asdict()) as engine:
        yield Teacher(source, recipe, game, engine, own=False)


def own_teachers(teacher: dict[str, float] | str, game: Game[Any, Any, Any]) -> dict[str, float] | None:
    """The mixture that a teacher is of the game's own ones; None for a policy of another kind."""
    if isinstance(teacher, dict):
        return teacher
    return {teacher: 1.0} if teacher in game.teachers else None


def _mixture_name(mixture: dict[str, float]) -> str:
    """
    >>> _mixture_name({"greedy": 0.5, "solver": 0.5}), _mixture_name({"solver": 1.0})
    ('greedy=0.5,solver=0.5', 'solver')
    """
    if len(mixture) == 1:
        return next(iter(mixture))
    return ",".join(f"{name}={weight:g}" for name, weight in sorted(mixture.items()))
