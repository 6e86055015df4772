import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from vlmgym.errors import BadInput
from vlmgym.evals.log import Evaluation, Policy, RunLog, StepLog, Tokens
from vlmgym.evals.playing import NO_ANSWER, LiveRun, Player, Reply, play_all
from vlmgym.evals.protocol import start_seed
from vlmgym_envs.core import Game
from vlmgym_policies.answers import write_response
from vlmgym_policies.baselines import Demonstrator
from vlmgym_policies.engine import Completion, Engine, GenerationError, Prompt, Sampling, Usage, make_engine
from vlmgym_policies.history import History

AnyGame = Game[Any, Any, Any]
Make = Callable[..., Evaluation]
Past = Mapping[int, Sequence[StepLog]]


def scripted(writer: Callable[[Prompt, np.random.Generator], str]) -> Engine:
    return make_engine("scripted", writer=writer)


def play(
    evaluation: Evaluation, engine: Engine, *, past: Past | None = None, pictures: bool = False, **hooks: Any
) -> list[RunLog]:
    hooks = {"on_step": lambda *_: None, "on_end": lambda _: None, **hooks}
    player = Player(evaluation.make_game(), evaluation, engine, pictures, **hooks)
    return asyncio.run(play_all(player, past or {run: () for run in range(evaluation.num_runs)}))


def reply(text: str) -> Reply:
    return Reply(text, False, None)


def test_a_bad_answer_costs_a_step_and_leaves_the_state(game: AnyGame, make_evaluation: Make) -> None:
    run = LiveRun(game, make_evaluation(max_steps=5), 0)
    start, text = run.state, game.describe(run.state)
    action = game.legal_actions(start)[0]
    bad = [
        ("I cannot see it", NO_ANSWER),
        ("<answer>(0, 0) (0, 1)", NO_ANSWER),
        ("<answer>up</answer>", "expected only whole numbers, got 'up'"),
        (f"<answer>{action[0]} {action[0]}</answer>", f"the two cells must differ, got {action[0]} twice"),
    ]
    for answer, reason in bad:
        step = run.play(reply(answer))
        assert (step.refused, step.reward, step.well_formed, run.over) == (reason, 0.0, False, False)
        assert run.state is start
    good = run.play(reply(write_response(text, "so", game.format_answer(action))))
    assert (good.refused, good.reward, good.well_formed, good.cells, good.board) == (None, 1.0, True, 1.0, True)
    log = run.end()
    assert run.over and not log.terminated
    assert (log.score, log.num_steps, log.won) == (1.0, 5, False)
    assert log.states == [text] * 5 + [game.describe(game.step(start, action).state)]
    assert [step.state for step in log.steps] == [text, None, None, None, None]
    assert log.shares is not None and (log.shares.illegal, log.shares.well_formed) == (0.8, 0.2)


def test_perception_is_counted_by_cell(game: AnyGame, make_evaluation: Make) -> None:
    """One of 3 x 4 cells is wrong."""
    run = LiveRun(game, make_evaluation(), 0)
    rows = game.cells(game.describe(run.state))
    rows[1][2] = "Plaid rhombus"
    seen = "\n".join("|".join(row) for row in rows)
    step = run.play(reply(write_response(seen, "so", "none")))
    assert (step.cells, step.board, step.well_formed) == (11 / 12, False, True)


def test_a_run_starts_at_its_seed_and_ends_with_its_game(make_evaluation: Make) -> None:
    """3 x 4 tiles are 6 pairs, and the solver removes them all."""
    evaluation = make_evaluation("solver", num_runs=4, seed=7)
    game = evaluation.make_game()
    runs = play(evaluation, scripted(Demonstrator(game, {"solver": 1.0})))
    for number, run in enumerate(runs):
        assert (run.run, run.seed) == (number, start_seed(7, number))
        assert run.states[0] == game.describe(game.init(start_seed(7, number)))
        assert (run.score, run.num_steps, run.terminated, run.won, run.error) == (6.0, 6, True, True, None)


def test_rewards_that_are_points_are_summed(make_evaluation: Make) -> None:
    evaluation = make_evaluation(score="reward_sum", max_steps=2)
    run = LiveRun(evaluation.make_game(), evaluation, 0)
    run.steps = [StepLog(response="", reward=reward, well_formed=True, cells=0.0) for reward in (4.0, 0.0, 16.0)]
    assert run.end().score == 20.0


def test_teachers_see_no_picture_and_models_do(make_evaluation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = make_evaluation(num_runs=2, max_steps=3)
    seen: list[Prompt] = []

    def write(prompt: Prompt, rng: np.random.Generator) -> str:
        seen.append(prompt)
        return "nothing"

    play(evaluation, scripted(write), pictures=True)
    assert all(prompt.images[0].startswith(b"\x89PNG") for prompt in seen)
    assert len({id(prompt) for prompt in seen}) == 2, "one picture serves a state for as long as it lasts"
    seen.clear()
    monkeypatch.setattr("vlmgym_envs.draw.BoardPainter.paint", None)
    play(evaluation, scripted(write))
    assert [prompt.images for prompt in seen] == [()] * 6


def test_prompts_hold_the_history_that_was_asked_for(make_evaluation: Make) -> None:
    """Also after an interruption, behind the steps that were answered before; teachers have none."""
    evaluation = make_evaluation(num_runs=1, max_steps=4, history=History("all", 1))
    seen: list[Prompt] = []

    def write(prompt: Prompt, rng: np.random.Generator) -> str:
        seen.append(prompt)
        return f"answer {len(prompt.messages) // 2}"

    (whole,) = play(evaluation, scripted(write), pictures=True)
    assert [len(prompt.messages) for prompt in seen] == [1, 3, 5, 7]
    assert [len(message.images) for message in seen[3].messages] == [0, 0, 0, 0, 1, 0, 1]
    assert [message.text for message in seen[3].messages[1::2]] == ["answer 0", "answer 1", "answer 2"]
    first, last = seen[0], seen[3]
    seen.clear()
    assert play(evaluation, scripted(write), pictures=True, past={0: whole.steps[:3]}) == [whole]
    assert seen == [last]
    play(evaluation, scripted(write))
    assert {len(prompt.messages) for prompt in seen[1:]} == {1} and first.state == seen[1].state


class Delayed:
    """Answers in an order of its own; at most so many at a time."""

    def __init__(self, inner: Engine, delays_s: Sequence[float], at_a_time: int) -> None:
        self.inner, self.delays_s, self.at_a_time = inner, list(delays_s), at_a_time
        self.places: asyncio.Semaphore | None = None

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.places = self.places or asyncio.Semaphore(self.at_a_time)
        async with self.places:
            await asyncio.sleep(self.delays_s[sampling.seed % len(self.delays_s)])
            return await self.inner.generate(prompts, sampling)


def test_results_do_not_depend_on_what_runs_beside(make_evaluation: Make) -> None:
    evaluation = make_evaluation("random", num_runs=5, max_steps=12)
    teacher = scripted(Demonstrator(evaluation.make_game(), {"random": 1.0}))
    alone = play(evaluation, teacher)
    for at_a_time in (1, 3):
        assert play(evaluation, Delayed(teacher, [0.0, 0.003, 0.001], at_a_time)) == alone
    assert play(evaluation, teacher, past={3: ()}) == [alone[3]]
    assert len({tuple(step.response for step in run.steps) for run in alone}) == 5
    assert len({step.response.split("</perception>")[1] for step in alone[0].steps}) > 6


def test_a_request_that_fails_fails_its_run_only(make_evaluation: Make) -> None:
    evaluation = make_evaluation(num_runs=3, max_steps=4)
    teacher = scripted(Demonstrator(evaluation.make_game(), {"legal_random": 1.0}))

    class Failing:
        async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            if prompts[0].state.num_moves == 2 and prompts[0].state.board in third:
                raise GenerationError("m: APITimeoutError: Request timed out.")
            return await teacher.generate(prompts, sampling)

    whole = play(evaluation, teacher)
    game = evaluation.make_game()
    third = {game.from_text(whole[1].states[2]).board}
    steps, ends = [], []
    runs = play(evaluation, Failing(), on_step=lambda *step: steps.append(step[:2]), on_end=ends.append)  # type: ignore[arg-type]
    assert [run.error for run in runs] == [None, "m: APITimeoutError: Request timed out.", None]
    assert runs[1].steps == whole[1].steps[:2] and runs[1].num_steps == 2
    assert [runs[0], runs[2]] == [whole[0], whole[2]]
    assert sorted(steps) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert sorted(ends, key=lambda run: run.run) == runs


def test_a_bug_ends_all_runs(make_evaluation: Make) -> None:
    def write(prompt: Prompt, rng: np.random.Generator) -> str:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        play(make_evaluation(num_runs=3), scripted(write))


def test_answers_of_an_earlier_start_are_not_asked_for_again(make_evaluation: Make) -> None:
    evaluation = make_evaluation("legal_random", num_runs=2)
    teacher = Demonstrator(evaluation.make_game(), {"legal_random": 1.0})
    whole = play(evaluation, scripted(teacher))
    asked: list[Prompt] = []

    def write(prompt: Prompt, rng: np.random.Generator) -> str:
        asked.append(prompt)
        return teacher(prompt, rng)

    past = {0: whole[0].steps, 1: whole[1].steps[:2]}
    assert play(evaluation, scripted(write), past=past) == whole
    assert len(asked) == whole[1].num_steps - 2


def test_a_past_that_the_rules_do_not_repeat_is_refused(make_evaluation: Make) -> None:
    evaluation = make_evaluation("legal_random", num_runs=1)
    engine = scripted(Demonstrator(evaluation.make_game(), {"legal_random": 1.0}))
    (run,) = play(evaluation, engine)
    changed = [run.steps[0], run.steps[1].model_copy(update={"reward": 2.0})]
    with pytest.raises(BadInput, match="step 2 of run 0 is another than before"):
        play(evaluation, engine, past={0: changed})
    with pytest.raises(BadInput, match=f"step {run.num_steps} of run 0 is another than before"):
        play(evaluation, engine, past={0: [*run.steps, run.steps[0]]})


@pytest.mark.parametrize(
    ("usage", "num_ids", "expected"),
    [
        (Usage(100, 20), 0, Tokens(prompt=100, completion=20)),
        (None, 3, Tokens(prompt=3, completion=3)),
        (None, 0, None),
    ],
)
def test_tokens_are_counted_and_cut_responses_marked(
    make_evaluation: Make, usage: Usage | None, num_ids: int, expected: Tokens | None
) -> None:
    ids = np.zeros(num_ids, dtype=np.int32)

    class Counting:
        async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            return [Completion("", ids, ids, ids.astype(np.float32), "length", 0, usage)]

    (run,) = play(make_evaluation(num_runs=1, max_steps=1), Counting())  # type: ignore[arg-type]
    assert (run.steps[0].tokens, run.steps[0].cut, run.num_cut) == (expected, True, 1)


def test_sampling_is_as_asked(make_evaluation: Make) -> None:
    seen: list[Sampling] = []

    class Watching:
        async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            seen.append(sampling)
            return [Completion("", *[np.zeros(0)] * 3, "stop", 0)]  # type: ignore[arg-type]

    policy = Policy(spec="m", kind="endpoint", name="m")
    play(make_evaluation(policy, num_runs=1, max_steps=3, temperature=0.25, max_tokens=9), Watching())  # type: ignore[arg-type]
    assert {(sampling.temperature, sampling.max_tokens) for sampling in seen} == {(0.25, 9)}
    assert len({sampling.seed for sampling in seen}) == 3
