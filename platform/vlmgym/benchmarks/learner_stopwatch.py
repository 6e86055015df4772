"""Decides how training steps are measured: seconds and peak memory, each contender in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self


class Step(NamedTuple):
    """One training step. cpu_s: of its process, all threads together. peak_bytes: the most memory so far above what
    there was before the first step.
    """

    seconds: float
    cpu_s: float
    peak_bytes: int
    padding_fraction: float | None


class Stopwatch:
    """What a contender's process measures with. `start` waits until this contender's turn comes."""

    def __init__(self, pipe: Any, device: str) -> None:
        self._pipe = pipe
        self._memory = _CudaMemory() if device == "cuda" else _ProcessMemory()
        self._before: int | None = None
        self._started_s = self._started_cpu_s = 0.0

    def start(self) -> None:
        self._pipe.recv()
        if self._before is None:
            self._before = self._memory.reset()
        self._memory.wait()
        self._started_s, self._started_cpu_s = time.monotonic(), time.process_time()

    def stop(
        self, *, excluded_s: float = 0.0, excluded_cpu_s: float = 0.0, padding_fraction: float | None = None
    ) -> None:
        """excluded_s, excluded_cpu_s: of the time since `start`, what was spent on something else."""
        self._memory.wait()
        seconds = time.monotonic() - self._started_s - excluded_s
        cpu_s = time.process_time() - self._started_cpu_s - excluded_cpu_s
        assert self._before is not None, "start comes before stop"
        self._pipe.send(Step(seconds, cpu_s, self._memory.peak() - self._before, padding_fraction))


class Runner:
    """A contender in a process of its own, which takes a step when it is told to. Errors: RuntimeError if it fails."""

    def __init__(self, contender: Callable[..., None], workload: Any, num_steps: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = contender.__name__
        self._pipe, theirs = context.Pipe()
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(workload.num_threads)
        try:
            self._process = context.Process(target=_run, args=(theirs, contender, workload, num_steps), daemon=True)
            self._process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS")
            if before is not None:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()

    def step(self) -> Step:
        try:
            self._pipe.send(None)
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"the process of {self._name} ended") from error
        if isinstance(answer, Exception):
            raise RuntimeError(f"{self._name} failed: {answer}") from answer
        step: Step = answer
        return step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _run(pipe: Any, contender: Callable[..., None], workload: Any, num_steps: int) -> None:
    try:
        import torch

        torch.set_num_threads(workload.num_threads)
        contender(workload, num_steps, Stopwatch(pipe, workload.device))
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
        raise


class _ProcessMemory:
    """Resident bytes of this process: the kernel keeps their maximum, and lets it be started anew."""

    def reset(self) -> int:
        Path("/proc/self/clear_refs").write_text("5")
        return self._read("VmRSS")

    def peak(self) -> int:
        return self._read("VmHWM")

    def wait(self) -> None:
        pass

    def _read(self, name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert match, "Linux keeps both"
        return int(match[1]) * 1024


class _CudaMemory:
    """Bytes of tensors on the GPU."""

    def reset(self) -> int:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())

    def peak(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated())

    def wait(self) -> None:
        import torch

        torch.cuda.synchronize()
