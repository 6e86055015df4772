import json
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vlmgym.benchmarks.learner_figures import Work, learner_figure, ratios_to
from vlmgym.benchmarks.learner_stopwatch import Runner, Step, Stopwatch
from vlmgym.benchmarks.learner_trl import longest_tokens, rows_per_micro_batch
from vlmgym.benchmarks.learner_workload import MAX_TOKENS, MIN_TOKENS, Workload, deal, response_ids
from vlmgym.cli import main
from vlmgym.grpo.batching import num_tokens

LEARNER = {"contender": str, "num_steps": int, "peak_mib": float, "mfu": float}
LEARNER |= dict.fromkeys(("tokens_per_s", "tokens_per_s_min", "tokens_per_s_max", "tokens_per_cpu_s"), float)
WORKLOAD = {"model": str, "device": str, "dtype": str, "matmul_tflops": float}
WORKLOAD |= dict.fromkeys(("num_threads", "num_params", "num_sequences", "num_tokens"), int)
SMALL = ("--json", "--groups", "2", "--group-size", "2", "--threads", "1", "--steps", "1", "--repeats", "1")


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "learner", *arguments])
    return ended.value.code


def types(row: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in row.items()}


def check(printed: str, contenders: list[str]) -> None:
    figures = json.loads(printed)
    assert list(figures) == ["workload", "learners", "ratios"]
    (workload,) = figures["workload"]
    assert types(workload) == WORKLOAD
    assert workload["num_sequences"] == 4 and workload["num_tokens"] > 4 * MIN_TOKENS
    assert [row["contender"] for row in figures["learners"]] == contenders
    for row in figures["learners"]:
        padding = row.pop("padding_fraction")
        assert (padding is None) == (row["contender"] != "platform") and (padding is None or 0 <= padding < 0.5)
        assert types(row) == LEARNER
        assert 0 < row["mfu"] < 1 and row["peak_mib"] > 1
    units = ["tokens_per_s", "tokens_per_cpu_s", "peak_mib"]
    expected = [(f"platform / {name}", unit) for unit in units for name in contenders[1:]]
    assert [(row["ratio"], row["unit"]) for row in figures["ratios"]] == expected


def test_platform_and_bare_loop_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--no-trl") == 0
    check(capsys.readouterr().out, ["platform", "bare"])


@pytest.mark.slow
def test_trl_is_measured_too_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    assert run(*SMALL) == 0
    check(capfd.readouterr().out, ["platform", "bare", "trl"])


def test_where_trl_is_missing_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    assert run("--json") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "pip install trl" in printed.err and "--no-trl" in printed.err


@pytest.fixture(scope="module")
def workload(make_model: Any) -> Workload:
    return Workload(str(make_model(0)), num_groups=6, group_size=4, device="cpu", dtype="float32", num_threads=1)


def test_the_same_step_is_dealt_alike_and_no_picture_comes_twice(workload: Workload) -> None:
    first, again, second = deal(workload, 0), deal(workload, 0), deal(workload, 1)
    assert all(np.array_equal(*pair) for pair in zip(response_ids(first), response_ids(again), strict=True))
    pictures = [
        branch.get_observations(0).images for group in (*first, *second) for branch in group.agent_episodes.values()
    ]
    groups = [set(pictures[i : i + 4]) for i in range(0, len(pictures), 4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == len(groups)
    returns = [[branch.get_return() for branch in group.agent_episodes.values()] for group in first]
    assert {value for row in returns for value in row} == {1.0, -1.0}


def test_responses_are_as_long_as_those_of_the_demonstration(workload: Workload) -> None:
    groups = [group for step in range(8) for group in deal(workload, step)]
    lengths = [len(ids) for ids in response_ids(groups)]
    assert min(lengths) == MIN_TOKENS and max(lengths) == MAX_TOKENS
    assert np.mean(lengths) == pytest.approx((MIN_TOKENS + MAX_TOKENS) / 2, abs=1.5)
    (num_prompt_tokens,) = {
        len(branch.extra_model_outputs["prompt_ids"][0]) for group in groups for branch in group.agent_episodes.values()
    }
    assert longest_tokens([groups]) == num_prompt_tokens + MAX_TOKENS
    assert sum(map(num_tokens, groups)) == sum(lengths) + len(lengths) * num_prompt_tokens


def test_trl_cuts_a_batch_into_the_fewest_equal_parts_that_fit() -> None:
    assert rows_per_micro_batch(256, 80, 10_240) == 128
    assert rows_per_micro_batch(256, 81, 10_240) == 64
    assert rows_per_micro_batch(6, 10, 5) == 1


def test_figures_by_hand() -> None:
    """100 tokens and 5e12 FLOPs in 2 s and in 4 s, where a product makes 10 TFLOP/s: a quarter and an eighth."""
    steps = [Step(2.0, 1.0, 3 * 2**20, 0.01), Step(4.0, 2.0, 2**20, 0.03)]
    work = [Work(100, 5e12)] * 2
    figure = learner_figure("platform", steps, work, matmul_tflops=10.0, on_cpu=True)
    assert figure == ("platform", 2, 37.5, 25.0, 50.0, 75.0, 3.0, 0.1875, 0.03)
    assert learner_figure("platform", steps, work, 10.0, on_cpu=False).tokens_per_cpu_s is None
    other = [Step(3.0, 3.0, 6 * 2**20, None), Step(3.0, 3.0, 2**20, None)]
    speed, cpu, memory = ratios_to([[step] for step in steps], {"bare": [[step] for step in other]}, on_cpu=True)
    assert speed == ("platform / bare", "tokens_per_s", 1.125, 0.75, 1.5)
    assert cpu == ("platform / bare", "tokens_per_cpu_s", 2.25, 1.5, 3.0)
    assert memory == ("platform / bare", "peak_mib", 0.5, 0.5, 0.5)


def allocates(workload: Workload, num_steps: int, stopwatch: Stopwatch) -> None:
    """A contender that keeps 30 MB more after each step, and has 40 MB once in the second."""
    kept = []
    for step in range(num_steps):
        stopwatch.start()
        kept.append(np.ones(30 * 2**17))
        if step == 1:
            np.ones(40 * 2**17)
        stopwatch.stop()


def fails(workload: Workload, num_steps: int, stopwatch: Stopwatch) -> None:
    raise OSError("no memory")


def test_the_peak_is_what_the_steps_took_above_what_was_there(workload: Workload) -> None:
    with Runner(allocates, workload, 3) as runner:
        peaks = [runner.step().peak_bytes / 2**20 for _ in range(3)]
    assert peaks == pytest.approx([30, 100, 100], abs=5)
    assert all(earlier <= later for earlier, later in pairwise(peaks))


def test_a_contender_that_fails_says_why(workload: Workload) -> None:
    with Runner(fails, workload, 1) as runner, pytest.raises(RuntimeError, match="fails failed: OSError: no memory"):
        runner.step()
