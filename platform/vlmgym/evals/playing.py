"""Plays the runs of an evaluation: all at once, one request per run and step, answers judged as in training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlmgym.errors import BadInput
from vlmgym.evals.log import Evaluation, RunLog, StepLog, Tokens
from vlmgym.evals.protocol import answer_seed, points, start_seed
from vlmgym.evals.summary import shares_of, sum_errors, sum_tokens
from vlmgym_envs.core import Game, Step
from vlmgym_policies.answers import Response, parse_response
from vlmgym_policies.engine import Completion, Engine, GenerationError, Message, Prompt, Sampling
from vlmgym_policies.history import History, Turn
from vlmgym_policies.insight import Regrets, legal_as_perceived, perceive
from vlmgym_policies.prompting import ask

NO_ANSWER = "the response has no <answer> block"

OnStep = Callable[[int, int, StepLog], None]
"""Called with the numbers of the run and the step, and the step."""


class Reply(NamedTuple):
    """What a policy answered in a step. cut: stopped at max_tokens."""

    text: str
    cut: bool
    tokens: Tokens | None


class LiveRun:
    """One run while it is played.

    state: the current one. steps: what was decided so far. over: the game has ended or the bound is reached.
    """

    def __init__(self, game: Game[Any, Any, Any], evaluation: Evaluation, number: int) -> None:
        self.number = number
        self.seed = start_seed(evaluation.seed, number)
        self.state = game.init(self.seed)
        self.steps: list[StepLog] = []
        self._game = game
        self._evaluation = evaluation
        self._regrets = Regrets(game)
        self._text = game.describe(self.state)
        self._is_new = True
        self._terminated = False
        self._won: bool | None = None

    @property
    def over(self) -> bool:
        return self._terminated or len(self.steps) == self._evaluation.max_steps

    def play(self, reply: Reply) -> StepLog:
        """Judges and plays an answer. A bad one is an illegal move: it costs a step and leaves the state as it is."""
        response = parse_response(reply.text)
        step = self._step(response)
        perception = perceive(self._game, self.state, response)
        legal = step.refused is None
        log = StepLog(
            state=self._text if self._is_new else None,
            response=reply.text,
            reward=step.reward,
            refused=step.refused,
            well_formed=response.well_formed,
            cells=perception.right,
            errors=dict(perception.errors),
            legal_as_perceived=legal if perception.board else legal_as_perceived(self._game, response),
            regret=self._regrets(self.state, response.answer),
            cut=reply.cut,
            tokens=reply.tokens,
        )
        self.steps.append(log)
        self._is_new = legal
        if self._is_new:
            self.state, self._terminated, self._won = step.state, step.terminated, step.won
            self._text = self._game.describe(self.state)
        return log

    def end(self, error: str | None = None) -> RunLog:
        """error: why the run failed."""
        rule = self._evaluation.score
        return RunLog(
            run=self.number,
            seed=self.seed,
            score=sum(points(rule, step.reward) for step in self.steps),
            num_steps=len(self.steps),
            terminated=self._terminated,
            won=self._won,
            shares=shares_of(self.steps),
            errors=sum_errors(step.errors for step in self.steps),
            num_cut=sum(step.cut for step in self.steps),
            tokens=sum_tokens([step.tokens for step in self.steps]),
            error=error,
            steps=tuple(self.steps),
            end_state=self._text,
        )

    def _step(self, response: Response) -> Step[Any]:
        if response.answer is None:
            return Step(self.state, 0.0, False, {"refused": NO_ANSWER})
        return self._game.play(self.state, response.answer)


@dataclass(frozen=True)
class Player:
    """Plays runs of one evaluation with one engine.

    sees_pictures: without it, prompts hold no picture and no history, and nothing is drawn. on_step: for each step
    that was asked for.
    """

    game: Game[Any, Any, Any]
    evaluation: Evaluation
    engine: Engine
    sees_pictures: bool
    on_step: OnStep
    on_end: Callable[[RunLog], None]

    async def play(self, number: int, past: Sequence[StepLog] = ()) -> RunLog:
        """Run `number`. past: its first steps, answered in an earlier start; their answers are played, not asked for.

        Errors: BadInput where the past answers lead elsewhere than they did.
        """
        run = LiveRun(self.game, self.evaluation, number)
        memory = self._history.memory()
        for step in past:
            if memory.maxlen != 0:
                memory.append(Turn(self._question(run.state), step.response))
            if run.over or run.play(Reply(step.response, step.cut, step.tokens)) != step:
                raise BadInput(f"step {len(run.steps)} of run {number} is another than before: choose another --out")
        error, asked = None, None
        while not run.over and error is None:
            await asyncio.sleep(0)  # teachers never wait, and an interrupt is only heard by a loop that moves on
            if asked is None or asked.state is not run.state:
                asked = self._question(run.state)
            prompt = self._history.prompt(memory, asked)
            try:
                (completion,) = await self.engine.generate([prompt], self._sampling(run))
            except GenerationError as failure:
                error = str(failure)
            else:
                memory.append(Turn(asked, completion.text))
                self.on_step(number, len(run.steps), run.play(_reply(completion)))
        log = run.end(error)
        self.on_end(log)
        return log

    @property
    def _history(self) -> History:
        return self.evaluation.history if self.sees_pictures else History()

    def _question(self, state: Any) -> Prompt:
        if self.sees_pictures:
            return ask(self.game, state, self.evaluation.observation)
        return Prompt((Message("user", self.game.prompt),), state)

    def _sampling(self, run: LiveRun) -> Sampling:
        evaluation = self.evaluation
        seed = answer_seed(evaluation.seed, run.number, len(run.steps))
        return Sampling(evaluation.temperature, evaluation.max_tokens, seed)


async def play_all(player: Player, past: Mapping[int, Sequence[StepLog]]) -> list[RunLog]:
    """Every run of `past`, number -> first steps, goes on after these; all at once. What one raises ends them all."""
    runs = [asyncio.create_task(player.play(number, steps)) for number, steps in past.items()]
    try:
        return list(await asyncio.gather(*runs))
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


def _reply(completion: Completion) -> Reply:
    usage = completion.usage
    tokens = None
    if usage is not None:
        tokens = Tokens(prompt=usage.prompt_tokens, completion=usage.completion_tokens)
    elif len(completion.token_ids):
        tokens = Tokens(prompt=len(completion.prompt_token_ids), completion=len(completion.token_ids))
    return Reply(completion.text, completion.finish_reason == "length", tokens)
