"""Decides how an engine is asked without the platform, by so many askers at once, and how that is measured."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from vlmgym.benchmarks.rollouts_workload import Answer, Branch
from vlmgym_policies.engine import Completion, Prompt, Sampling, make_engine

Generate = Callable[[Sequence[Prompt], Sampling], Awaitable[Sequence[Completion]]]
CpuSeconds = Callable[[], Awaitable[float]]
"""CPU seconds that the process of an engine has taken so far."""


class Window(NamedTuple):
    """A measurement: all that was answered, the time that counts, and how many groups ended in that time.

    engine_cpu_s: of the engine's process in that time. num_waves: how often all in flight were answered together before
    any asked again.
    """

    answers: list[Answer]
    start_s: float
    end_s: float
    num_groups: float
    engine_cpu_s: float
    num_waves: int = 0

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def requests_in_flight(self) -> float:
        """Their mean number."""
        inside_s = (min(a.finished_s, self.end_s) - max(a.asked_s, self.start_s) for a in self.answers)
        return sum(max(0.0, s) for s in inside_s) / self.seconds

    @property
    def num_tokens(self) -> int:
        """Of the responses that ended in the window."""
        return sum(answer.num_tokens for answer in self.counted)

    @property
    def counted(self) -> list[Answer]:
        return [answer for answer in self.answers if self.start_s < answer.finished_s <= self.end_s]


class Load(NamedTuple):
    """How an engine is asked. num_warm_up: answers before the window opens, which lasts `seconds`."""

    num_in_flight: int
    requests_per_group: int
    num_warm_up: int
    seconds: float


async def closed_loop(generate: Generate, cpu_s: CpuSeconds, branches: Sequence[Branch], load: Load) -> Window:
    """Asks with `num_in_flight` askers: each plays a branch, a turn after the other, then the next branch there is.

    Requests under way when the window closes are waited for and not counted. After the last branch comes the first.
    """
    answers: list[Answer] = []
    window = _OpenWindow(load, cpu_s)
    waiting = _again_and_again(branches)

    async def ask() -> None:
        for branch in waiting:
            for prompt, sampling in branch:
                asked_s = time.monotonic()
                (completion,) = await generate([prompt], sampling)
                answers.append(Answer(asked_s, time.monotonic(), sampling.seed, len(completion.token_ids)))
                window.note(len(answers), answers[-1].finished_s)
                if window.closed:
                    return

    await asyncio.gather(*(ask() for _ in range(load.num_in_flight)))
    measured = Window(answers, window.start_s, window.end_s, 0.0, await window.engine_cpu_s())
    return measured._replace(num_groups=len(measured.counted) / load.requests_per_group)


class BareEngine:
    """An engine in a process of its own, without Ray, with one thread; its asker lives there too.

    Errors: RuntimeError where the process fails.
    """

    def __init__(self, engine_type: str, options: Mapping[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = {name: os.environ.get(name) for name in _THREADS}
        os.environ.update(_THREADS)
        try:
            self._process = context.Process(target=_serve, args=(theirs, engine_type, dict(options)), daemon=False)
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        theirs.close()
        self._has_started = False

    def measure(self, branches: Sequence[Branch], load: Load) -> Window:
        if not self._has_started:
            self._receive()
            self._has_started = True
        self._pipe.send((branches, load))
        return self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(_CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process of the bare engine ended") from None
        if isinstance(answer, Exception):
            raise RuntimeError(f"the bare engine failed: {answer}") from answer
        return answer


_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""What Ray sets for an actor with one CPU."""
_CLOSE_S = 20.0


def _serve(pipe: Any, engine_type: str, options: dict[str, Any]) -> None:
    """The other side of `BareEngine`: until the pipe is closed, measures what it is sent."""
    try:
        import torch

        torch.set_num_threads(1)
        engine = make_engine(engine_type, **options)
        pipe.send(None)
        with asyncio.Runner() as runner:
            while True:
                branches, load = pipe.recv()
                pipe.send(runner.run(closed_loop(engine.generate, _own_cpu_s, branches, load)))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
    finally:
        if close := getattr(locals().get("engine"), "close", None):
            close()


async def _own_cpu_s() -> float:
    return time.process_time()


class _OpenWindow:
    """Opens with the answer that ends the warm-up, closes with the first one after `seconds`."""

    def __init__(self, load: Load, cpu_s: CpuSeconds) -> None:
        self._load = load
        self._cpu_s = cpu_s
        self._clocks: list[asyncio.Future[float]] = []
        self.start_s = self.end_s = 0.0
        self.closed = False

    def note(self, num_answers: int, now_s: float) -> None:
        if num_answers == self._load.num_warm_up:
            self.start_s = now_s
            self._clocks.append(asyncio.ensure_future(self._cpu_s()))
        elif num_answers > self._load.num_warm_up and not self.closed and now_s - self.start_s >= self._load.seconds:
            self.end_s, self.closed = now_s, True
            self._clocks.append(asyncio.ensure_future(self._cpu_s()))

    async def engine_cpu_s(self) -> float:
        opened_s, closed_s = await asyncio.gather(*self._clocks)
        return closed_s - opened_s


def _again_and_again(branches: Iterable[Branch]) -> Iterator[Branch]:
    while True:
        yield from branches
