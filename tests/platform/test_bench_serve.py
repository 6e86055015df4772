import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from vlmgym.benchmarks import serving
from vlmgym.benchmarks.rollouts_asking import Window
from vlmgym.benchmarks.rollouts_workload import Answer, make_endless_vlm, response_tokens
from vlmgym.benchmarks.serving import KINDS, Repeat, Settings, figures, requests
from vlmgym.cli import main
from vlmgym_policies.engines.hf import HFEngine

SETTINGS = Settings(seconds=1.0, num_in_flight=2, repeats=2, engine="hf")


def window(*latencies_s: float, num_tokens: int = 10, seconds: float = 10.0) -> Window:
    """Requests with the seeds 0, 1, ..., one after the other from 1 s on."""
    answers, now_s = [], 1.0
    for seed, latency_s in enumerate(latencies_s):
        answers.append(Answer(now_s, now_s + latency_s, seed, num_tokens))
        now_s += latency_s
    return Window(answers, 0.0, seconds, 0.0, 0.0)


def repeat(rate: float, added_s: float) -> Repeat:
    """The engine alone writes 20 tokens in 10 s, the others `rate` as fast and each request `added_s` later."""
    many = {kind: window(1, 1, seconds=10 if kind == "bare" else 10 / rate) for kind in KINDS}
    one = {kind: window(*(x + added_s * (kind != "bare") for x in (0.1, 0.3))) for kind in KINDS}
    return Repeat(many, one)


def test_ratios_and_added_latencies_are_those_of_each_repeat() -> None:
    told = figures(SETTINGS, [repeat(0.5, 0.01), repeat(0.9, 0.03)])
    assert [(row.ratio, row.median, row.min, row.max) for row in told.ratios] == [
        ("serve / bare", 0.7, 0.5, 0.9),
        ("stream / bare", 0.7, 0.5, 0.9),
    ]
    for row in told.added_latency:
        assert (row.num_requests, row.median_ms, row.min_ms, row.max_ms) == (4, 20.0, 10.0, 30.0)
    bare, served, _ = told.latency
    assert (bare.kind, bare.num_requests, bare.median_ms, served.median_ms) == ("bare", 4, 200.0, 220.0)
    alone, *_ = told.throughput
    assert (alone.tokens_per_s, alone.requests_per_s, alone.num_requests) == (2.0, 0.2, 4)
    assert told.workload[0] == ("hf", 2, 10.0, 10)


def test_a_request_that_one_of_two_windows_lacks_is_in_no_difference() -> None:
    one = {"bare": window(0.1), "serve": window(0.2, 0.5), "stream": window(0.1)}
    told = figures(SETTINGS, [Repeat({kind: window(1) for kind in KINDS}, one)])
    served, streamed = told.added_latency
    assert (served.num_requests, served.median_ms) == (1, 100.0)
    assert (streamed.num_requests, streamed.median_ms) == (1, 0.0)


def test_requests_of_a_draw_are_as_long_on_any_boards() -> None:
    first, other_deal, other_draw = requests(0, 0, 5), requests(0, 1, 5), requests(1, 0, 5)
    samplings = [[branch[0].sampling for branch in asked] for asked in (first, other_deal, other_draw)]
    boards = [[branch[0].prompt.images[0] for branch in asked] for asked in (first, other_deal, other_draw)]
    assert samplings[0] == samplings[1] != samplings[2]
    assert boards[0] == boards[2] != boards[1]
    assert all(sampling.max_tokens == response_tokens(sampling.seed) for sampling in samplings[0])


def test_no_response_is_shorter_than_was_drawn_for_it(tmp_path: Path) -> None:
    engine = HFEngine(str(make_endless_vlm(tmp_path, serving.SIZE)))
    asked = [branch[0] for branch in requests(0, 0, 4)]

    async def lengths() -> list[int]:
        answers = await asyncio.gather(*(engine.generate([prompt], sampling) for prompt, sampling in asked))
        return [len(completion.token_ids) for (completion,) in answers]

    assert asyncio.run(lengths()) == [response_tokens(sampling.seed) for _, sampling in asked]
    engine.close()


@pytest.mark.slow
def test_all_kinds_are_measured(capsys: pytest.CaptureFixture[str], ray_session: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "serve", "--json", "--seconds", "1", "--in-flight", "4", "--repeats", "1"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["workload", "throughput", "latency", "added_latency", "ratios"]
    assert [row["kind"] for row in told["throughput"]] == [row["kind"] for row in told["latency"]] == list(KINDS)
    for row in told["throughput"]:
        assert row["tokens_per_s"] > 0 and 3 < row["requests_in_flight"] <= 4.01
    assert told["workload"][0]["mean_tokens"] > serving.WARM_UP_ALONE
    assert [row["kind"] for row in told["added_latency"]] == ["serve", "stream"]
    assert all(row["num_requests"] > 0 for row in told["added_latency"])
