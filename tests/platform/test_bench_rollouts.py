import asyncio
import json
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from vlmgym.benchmarks import rollouts
from vlmgym.benchmarks import rollouts_training as training
from vlmgym.benchmarks.rollouts import Settings
from vlmgym.benchmarks.rollouts_asking import Load, Window, closed_loop
from vlmgym.benchmarks.rollouts_figures import length_figure, ratio_figure, rollout_figure, update_figure
from vlmgym.benchmarks.rollouts_workload import (
    MAX_TOKENS,
    MIN_TOKENS,
    NUM_TURNS,
    Answer,
    Request,
    RolloutEnv,
    branches_of,
    env_config,
    response_tokens,
    with_drawn_length,
)
from vlmgym.cli import main
from vlmgym_policies.engine import Completion, Prompt, Sampling

KINDS = ["bare", "actor", "lock_step", "no_barrier"]
WORKLOAD = {"engine": str, "max_requests_in_flight": int, "group_size": int, "num_turns": int}
ROLLOUT = {"kind": str}
ROLLOUT |= dict.fromkeys(("tokens_per_s", "tokens_per_s_min", "tokens_per_s_max"), float)
ROLLOUT |= dict.fromkeys(
    ("groups_per_s", "groups_per_s_min", "groups_per_s_max", "requests_in_flight", "tokens_per_cpu_s"), float
)
ROLLOUT |= dict.fromkeys(("num_tokens", "num_requests", "num_waves"), int)
LENGTH = {"kind": str, "num_requests": int, "mean": float, "median": float, "p95": float, "max": int}
LENGTH |= {"num_not_as_drawn": int}
UPDATE = {"max_weights_lag": int, "num_updates": int}
UPDATE |= dict.fromkeys(("wall_s", "wall_s_min", "wall_s_max", "collect_s", "learn_s", "sync_s"), float)
RATIO = {"ratio": str, "unit": str, "median": float, "min": float, "max": float}


def types(row: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in row.items()}


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "rollouts", *arguments])
    return ended.value.code


SMALL = ("--json", "--seconds", "0.2", "--groups-in-flight", "2", "--group-size", "2", "--repeats", "1")


def test_all_four_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--no-training") == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == ["workload", "rollouts", "lengths", "updates", "ratios"]
    (workload,) = figures["workload"]
    assert types(workload) == WORKLOAD
    assert workload == {"engine": "hf", "max_requests_in_flight": 4, "group_size": 2, "num_turns": NUM_TURNS}
    for key, row_types in (("rollouts", ROLLOUT), ("lengths", LENGTH)):
        assert [types(row) for row in figures[key]] == [row_types] * 4
        assert [row["kind"] for row in figures[key]] == KINDS
    assert figures["updates"] == []
    assert [types(row) for row in figures["ratios"]] == [RATIO] * 6
    check_rollouts(figures["rollouts"], figures["lengths"])


@pytest.mark.slow
def test_training_is_measured_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module, name in ((rollouts, "TRAINING_REPEATS"), (training, "NUM_WARM_UP"), (training, "NUM_UPDATES")):
        monkeypatch.setattr(module, name, 1)
    assert run(*SMALL) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [types(row) for row in figures["updates"]] == [UPDATE] * 2
    assert [(row["max_weights_lag"], row["num_updates"]) for row in figures["updates"]] == [(0, 1), (1, 1)]
    assert [types(row) for row in figures["ratios"]] == [RATIO] * 7
    for row in figures["updates"]:
        assert row["collect_s"] + row["learn_s"] + row["sync_s"] <= row["wall_s"]


class Algorithm:
    """Stands where GRPO and its config stand: training step n takes n seconds of a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: dict[str, Any] = {}
        self.num_steps, self.num_stops, self.now_s = 0, 0, 0.0
        monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def copy(self, copy_frozen: bool) -> Self:
        return self

    def training(self, **settings: Any) -> None:
        self.set |= settings

    def build_algo(self) -> Self:
        return self

    def train(self) -> dict[str, Any]:
        self.num_steps += 1
        self.now_s += self.num_steps
        names = ("env_runner_sampling_timer", "learner_update_timer", "synch_weights")
        return {"timers": {name: self.num_steps / 2**n for n, name in enumerate(names, 2)}}

    def stop(self) -> None:
        self.num_stops += 1


@pytest.mark.parametrize("lag", [0, 1])
def test_training_steps_count_after_the_warm_up(monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    algorithm = Algorithm(monkeypatch)
    updates = training.measure_updates(algorithm, lag)
    first, last = training.NUM_WARM_UP + 1, training.NUM_WARM_UP + training.NUM_UPDATES
    assert updates == [(n, n / 4, n / 8, n / 16) for n in range(first, last + 1)]
    assert algorithm.set["max_weights_lag"] == lag and (algorithm.set["importance_cap"] is None) == (lag == 0)
    assert algorithm.num_stops == 1
    figure = update_figure(lag, [updates, updates])
    assert figure[:2] == (lag, 2 * len(updates)) and (figure.wall_s_min, figure.wall_s_max) == (first, last)
    assert figure.wall_s == 4 * figure.collect_s == (first + last) / 2


def check_rollouts(rows: list[dict[str, Any]], lengths: list[dict[str, Any]]) -> None:
    for row, length in zip(rows, lengths, strict=True):
        assert length["num_not_as_drawn"] == 0
        assert MIN_TOKENS <= length["median"] <= length["p95"] <= length["max"] <= MAX_TOKENS
        assert 0 < row["num_requests"] <= length["num_requests"]
        assert row["num_tokens"] >= MIN_TOKENS * row["num_requests"]
        most_in_flight = 4 + (2 - 1 if row["kind"] == "no_barrier" else 0)
        assert 0 < row["requests_in_flight"] <= most_in_flight + 0.05
        assert row["tokens_per_s_min"] <= row["tokens_per_s"] <= row["tokens_per_s_max"]
        assert row["tokens_per_s"] / row["groups_per_s"] == pytest.approx(
            row["num_tokens"] / (row["num_requests"] / (2 * NUM_TURNS)), rel=0.7
        )
    bare, actor, lock_step, no_barrier = rows
    assert bare["num_waves"] == actor["num_waves"] == no_barrier["num_waves"] == 0
    assert lock_step["num_waves"] == lengths[2]["num_requests"] / 4
    assert lock_step["num_waves"] % NUM_TURNS == 0
    assert lock_step["requests_in_flight"] < bare["requests_in_flight"]


def test_the_seed_alone_decides_the_length() -> None:
    lengths = [response_tokens(seed) for seed in range(4000)]
    assert lengths == [response_tokens(seed) for seed in range(4000)]
    assert with_drawn_length(Sampling(max_tokens=8192, seed=3)) == Sampling(max_tokens=lengths[3], seed=3)
    assert min(lengths) == MIN_TOKENS and max(lengths) == MAX_TOKENS
    assert 125 < np.mean(lengths) < 150 and max(lengths) / np.mean(lengths) > 6.5
    assert np.median(lengths) == pytest.approx(64, abs=3)


@pytest.fixture(scope="module")
def branches() -> dict[int, list[tuple[Request, ...]]]:
    """Of two deals, three groups of two each."""
    config = Settings(1.0, 1, 2, 1, "hf", False).config("no model")
    return {deal: branches_of(config, deal, 3) for deal in (0, 1)}


def test_all_kinds_are_asked_alike_but_for_the_boards(branches: dict[int, list[tuple[Request, ...]]]) -> None:
    first, second = branches[0], branches[1]
    assert [len(branch) for branch in first] == [NUM_TURNS] * 6
    samplings = [[request.sampling for request in branch] for branch in first]
    assert samplings == [[request.sampling for request in branch] for branch in second]
    seeds = [sampling.seed for branch in samplings for sampling in branch]
    assert len(set(seeds)) == len(seeds)
    assert all(sampling.max_tokens == response_tokens(sampling.seed) for branch in samplings for sampling in branch)
    boards = [{request.prompt.state.board for branch in deal for request in branch} for deal in (first, second)]
    assert not boards[0] & boards[1]


def test_siblings_begin_alike_and_each_turn_has_a_board_of_its_own(
    branches: dict[int, list[tuple[Request, ...]]],
) -> None:
    for group in (branches[0][i : i + 2] for i in (0, 2, 4)):
        assert group[0][0].prompt == group[1][0].prompt
        for branch in group:
            num_moves = [request.prompt.state.num_moves for request in branch]
            assert num_moves == sorted(num_moves) and num_moves[1] == 1


def test_what_is_answered_changes_nothing_and_every_branch_has_all_its_turns() -> None:
    played = []
    for answer in ("", "(0, 0) and (0, 1)"):
        env = RolloutEnv(env_config(2))
        env.reset(seed=1)
        steps = [env.step(dict.fromkeys(env.possible_agents, answer)) for _ in range(NUM_TURNS)]
        assert [step[2]["__all__"] for step in steps] == [False] * (NUM_TURNS - 1) + [True]
        assert not any(step[2][agent] for step in steps for agent in env.possible_agents)
        assert {reward for step in steps for reward in step[1].values()} <= {1.0, -1.0}
        played.append((env.states, [step[1] for step in steps]))
    assert played[0] == played[1]


def ask(branches: list[tuple[Request, ...]], load: Load) -> tuple[Window, list[Sampling], int]:
    """What was measured of an engine that answers at once, what it was asked, and how much of it at once at most."""
    asked: list[Sampling] = []
    at_once = [0, 0]

    async def generate(prompts: Any, sampling: Sampling) -> list[Completion]:
        asked.append(sampling)
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.001)
        at_once[0] -= 1
        ids = np.zeros(sampling.max_tokens, dtype=np.int32)
        return [Completion("", ids, ids, np.zeros(sampling.max_tokens, dtype=np.float32), "length", 0)]

    async def cpu_s() -> float:
        return 0.5 * len(asked)

    return asyncio.run(closed_loop(generate, cpu_s, branches, load)), asked, at_once[1]


def test_a_closed_loop_has_as_many_in_flight_and_counts_what_ends_in_its_window() -> None:
    prompt = Prompt(())
    branches = [tuple(Request(prompt, Sampling(max_tokens=n + 1, seed=10 * n + t)) for t in range(2)) for n in range(5)]
    window, asked, at_once = ask(branches, Load(num_in_flight=3, requests_per_group=4, num_warm_up=6, seconds=0.05))
    assert at_once == 3
    assert len(window.answers) == len(asked) > 6 + len(window.counted) - 1
    assert {answer.seed for answer in window.answers} == {request.sampling.seed for b in branches for request in b}
    assert window.seconds >= 0.05
    assert window.num_tokens == sum(answer.num_tokens for answer in window.counted)
    assert window.num_groups == len(window.counted) / 4
    assert window.requests_in_flight == pytest.approx(3, abs=0.5)
    assert window.engine_cpu_s == pytest.approx(0.5 * len(window.counted), abs=0.5 * 3)


def test_figures_by_hand() -> None:
    """A window from 10 s to 20 s: 2 answers of 30 tokens end in it, one before it and one behind."""
    rows = [(8.0, 10.0, 4), (9.0, 15.0, 10), (15.0, 20.0, 20), (15.0, 25.0, 6)]
    answers = [Answer(asked_s, finished_s, 7, tokens) for asked_s, finished_s, tokens in rows]
    window = Window(answers, 10.0, 20.0, num_groups=5.0, engine_cpu_s=6.0, num_waves=2)
    assert window.requests_in_flight == pytest.approx(0.5 + 0.5 + 0.5)
    figure = rollout_figure("bare", [window, window._replace(end_s=30.0)], in_one_process=True)
    assert (figure.tokens_per_s, figure.tokens_per_s_min, figure.tokens_per_s_max) == (2.4, 1.8, 3.0)
    assert (figure.groups_per_s, figure.tokens_per_cpu_s, figure.num_waves) == (0.375, 5.5, 4)
    assert rollout_figure("bare", [window], in_one_process=False).tokens_per_cpu_s is None
    assert (figure.num_tokens, figure.num_requests) == (30 + 36, 2 + 3)
    lengths = length_figure("bare", [window])
    assert (lengths.num_requests, lengths.mean, lengths.median, lengths.max) == (4, 10.0, 8.0, 20)
    assert lengths.num_not_as_drawn == sum(tokens != response_tokens(7) for _, _, tokens in rows)
    assert ratio_figure("a / b", "s", [3.0, 1.0, 2.0], [1.0, 1.0, 1.0]) == ("a / b", "s", 2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "greater than or equal to 0.1"),
        (["--group-size", "1"], "greater than or equal to 2"),
        (["--engine", "openai"], "'hf'"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
