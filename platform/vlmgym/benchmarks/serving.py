"""Decides what the benchmark of serving compares: an engine alone, and the same behind Ray Serve and HTTP."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from vlmgym.benchmarks.ray_session import ray_session
from vlmgym.benchmarks.rollouts_asking import BareEngine, Load, Window
from vlmgym.benchmarks.rollouts_figures import RatioFigure, ratio_figure
from vlmgym.benchmarks.rollouts_workload import (
    GAME,
    LEVEL,
    MAX_TOKENS,
    Branch,
    Request,
    make_endless_vlm,
    with_drawn_length,
)
from vlmgym.benchmarks.serving_asking import ask_service
from vlmgym.serving.deploying import Scale, deploy, end, serve_config
from vlmgym.serving.settings import ServeSettings
from vlmgym_envs.registry import make_game
from vlmgym_policies.engine import Sampling
from vlmgym_policies.prompting import make_prompt
from vlmgym_policies.tiny import TinySize

KINDS = ("bare", "serve", "stream")
MODEL = "bench"
SIZE = TinySize(hidden_size=512, num_layers=4, num_heads=8, intermediate_size=1536, init_std=0.015)
"""About 10 M parameters: few requests a second for a replica, as of a large model on a GPU. The demonstration's model,
of 0.3 M, answers so fast that a good part of a core would go to HTTP."""
NUM_CPUS = 2
"""Of a Ray that is started here: the replica has one, as has the engine alone."""
MAX_REQUESTS_PER_S = 60
"""Requests that are written down before they are asked, per second of measuring; then the first come again."""
WARM_UP_ALONE = 3

Progress = Callable[[int, int, str], None]
"""Called with the measurements before this repeat, those of all repeats, and what is next."""


class Settings(NamedTuple):
    """seconds: of each measurement. num_in_flight: requests at a time where the throughput is measured."""

    seconds: float
    num_in_flight: int
    repeats: int
    engine: str


class WorkloadFigure(NamedTuple):
    """num_in_flight: also the largest batch. mean_tokens: of the responses asked for; max_tokens: of the longest."""

    engine: str
    num_in_flight: int
    mean_tokens: float
    max_tokens: int


class ThroughputFigure(NamedTuple):
    """With many requests in flight, of all repeats: medians and ranges of rates, the median latency of a request."""

    kind: str
    tokens_per_s: float
    tokens_per_s_min: float
    tokens_per_s_max: float
    requests_per_s: float
    requests_in_flight: float
    latency_ms: float
    num_requests: int


class LatencyFigure(NamedTuple):
    """One request at a time: milliseconds of a request, of all repeats together."""

    kind: str
    num_requests: int
    median_ms: float
    p95_ms: float


class AddedFigure(NamedTuple):
    """Milliseconds that a request takes longer than the same one of the engine alone, each of a repeat with its own.

    median_ms, p95_ms: over all requests; min_ms, max_ms: the range over the repeats of their medians.
    """

    kind: str
    num_requests: int
    median_ms: float
    p95_ms: float
    min_ms: float
    max_ms: float


class Figures(NamedTuple):
    """All that was measured. The names are the keys of the JSON form."""

    workload: list[WorkloadFigure]
    throughput: list[ThroughputFigure]
    latency: list[LatencyFigure]
    added_latency: list[AddedFigure]
    ratios: list[RatioFigure]

    def as_json(self) -> str:
        """{"workload": [{"engine": "hf", ...}], "throughput": [{"kind": "bare", ...}, ...], ...}"""
        return json.dumps({key: [row._asdict() for row in rows] for key, rows in self._asdict().items()}, indent=2)


class Repeat(NamedTuple):
    """Windows by kind: with many requests in flight, and with one."""

    many: dict[str, Window]
    one: dict[str, Window]


def measure(settings: Settings, progress: Progress) -> Figures:
    """Every figure. The kinds take turns, in each repeat in another order: equal lengths, boards of their own."""
    repeats: list[Repeat] = []
    total = 2 * len(KINDS) * settings.repeats
    with tempfile.TemporaryDirectory(prefix="vlmgym-") as folder, ray_session(NUM_CPUS):
        model = str(make_endless_vlm(Path(folder) / "model", SIZE))
        options = {"path": model, "dtype": "float32", "max_batch_size": settings.num_in_flight}
        progress(0, total, "starting")
        with BareEngine(settings.engine, options) as bare, _service(settings, model) as url:
            measurements: dict[str, Callable[[Sequence[Branch], Load], Window]] = {
                "bare": bare.measure,
                "serve": lambda branches, load: ask_service(url, MODEL, branches, load, is_streamed=False),
                "stream": lambda branches, load: ask_service(url, MODEL, branches, load, is_streamed=True),
            }
            for number in range(settings.repeats):
                begun = partial(progress, number * 2 * len(KINDS), total)
                repeats.append(_measure(settings, number, measurements, begun))
    return figures(settings, repeats)


def requests(draw: int, deal: int, num: int) -> list[Branch]:
    """Chats of one turn. draw: decides seeds and lengths of the responses. deal: decides the boards."""
    game = make_game(GAME, LEVEL)
    boards, seeds = (np.random.SeedSequence([entropy]).generate_state(num) for entropy in (deal, draw))
    prompts = [make_prompt(game.prompt, game.render(game.init(int(board)))) for board in boards]
    samplings = [with_drawn_length(Sampling(seed=int(seed))) for seed in seeds]
    return [(Request(prompt, sampling),) for prompt, sampling in zip(prompts, samplings, strict=True)]


def figures(settings: Settings, repeats: Sequence[Repeat]) -> Figures:
    rates = {kind: [_tokens_per_s(repeat.many[kind]) for repeat in repeats] for kind in KINDS}
    lengths = [answer.num_tokens for repeat in repeats for answer in repeat.many["bare"].answers]
    return Figures(
        [WorkloadFigure(settings.engine, settings.num_in_flight, round(float(np.mean(lengths)), 1), max(lengths))],
        [_throughput(kind, [repeat.many[kind] for repeat in repeats], rates[kind]) for kind in KINDS],
        [_latency(kind, [repeat.one[kind] for repeat in repeats]) for kind in KINDS],
        [_added(kind, repeats) for kind in KINDS[1:]],
        [ratio_figure(f"{kind} / bare", "tokens_per_s", rates[kind], rates["bare"]) for kind in KINDS[1:]],
    )


def _measure(
    settings: Settings,
    number: int,
    measurements: dict[str, Callable[[Sequence[Branch], Load], Window]],
    progress: Callable[[str], None],
) -> Repeat:
    num_requests = settings.num_in_flight + int(settings.seconds * MAX_REQUESTS_PER_S)
    many = Load(settings.num_in_flight, 1, settings.num_in_flight, settings.seconds)
    one = Load(1, 1, WARM_UP_ALONE, settings.seconds)
    windows: list[dict[str, Window]] = []
    for draw, load in enumerate((many, one), start=2 * number):
        windows.append({})
        for place in range(len(KINDS)):
            kind = KINDS[(number + place) % len(KINDS)]
            progress(f"{kind}, {load.num_in_flight} in flight")
            asked = requests(draw, draw * len(KINDS) + place, num_requests)
            windows[-1][kind] = measurements[kind](asked, load)
    return Repeat(*windows)


@contextmanager
def _service(settings: Settings, model: str) -> Iterator[str]:
    """The URL of a Serve application with one replica."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = ServeSettings(model=MODEL, engine="hf", max_batch_size=settings.num_in_flight, max_tokens=MAX_TOKENS)
    deploy(serve_config(served, model, Scale(), port=port))
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end()


def _tokens_per_s(window: Window) -> float:
    return round(window.num_tokens / window.seconds, 1)


def _throughput(kind: str, windows: Sequence[Window], rates: Sequence[float]) -> ThroughputFigure:
    return ThroughputFigure(
        kind,
        median(rates),
        min(rates),
        max(rates),
        round(median(len(window.counted) / window.seconds for window in windows), 2),
        round(median(window.requests_in_flight for window in windows), 1),
        _rounded(median(ms for window in windows for ms in latencies_ms(window).values())),
        sum(len(window.counted) for window in windows),
    )


def _latency(kind: str, windows: Sequence[Window]) -> LatencyFigure:
    values = [ms for window in windows for ms in latencies_ms(window).values()]
    return LatencyFigure(kind, len(values), _rounded(median(values)), _rounded(float(np.percentile(values, 95))))


def _added(kind: str, repeats: Sequence[Repeat]) -> AddedFigure:
    added = []
    for repeat in repeats:
        own, bare = latencies_ms(repeat.one[kind]), latencies_ms(repeat.one["bare"])
        added.append([own[seed] - bare[seed] for seed in own.keys() & bare.keys()])
    every = [ms for values in added for ms in values]
    medians = [median(values) for values in added]
    values = (median(every), float(np.percentile(every, 95)), min(medians), max(medians))
    return AddedFigure(kind, len(every), *map(_rounded, values))


def latencies_ms(window: Window) -> dict[int, float]:
    """Of the requests that ended in the window, by their seed; the last one, where one came again."""
    return {answer.seed: 1000 * (answer.finished_s - answer.asked_s) for answer in window.counted}


def _rounded(ms: float) -> float:
    return round(ms, 2)
