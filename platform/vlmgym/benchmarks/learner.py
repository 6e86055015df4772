"""Decides what the benchmark of the learner compares: the platform's update, a bare PyTorch loop, and TRL's trainer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vlmgym.benchmarks.learner_contenders import bare, platform
from vlmgym.benchmarks.learner_figures import Figures, Work, WorkloadFigure, learner_figure, ratios_to
from vlmgym.benchmarks.learner_stopwatch import Runner, Step
from vlmgym.benchmarks.learner_trl import trl
from vlmgym.benchmarks.learner_workload import Workload, deal, make_demonstration_vlm
from vlmgym.grpo.batching import num_tokens
from vlmgym_policies.processing import VLMProcessor, load_vlm
from vlmgym_policies.vlm_network import vision_tower

CONTENDERS: dict[str, Callable[..., None]] = {"platform": platform, "bare": bare, "trl": trl}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
MATMUL_SIZES = {"cpu": 1024, "cuda": 8192}
MATMUL_S = 1.0
NUM_WARM_UP = 1
TINY = "tiny"

Progress = Callable[[int, int, str], None]
"""Called with done, total and what is next."""


class Settings(NamedTuple):
    """What is measured. model: a directory or hub name, `tiny` for that of the demonstration."""

    model: str
    device: str
    num_threads: int
    num_groups: int
    group_size: int
    steps_per_repeat: int
    repeats: int
    contenders: tuple[str, ...]


def measure(settings: Settings, progress: Progress) -> Figures:
    """Every figure. Contenders, each in a process of its own, take turns in every repeat, from one to the next."""
    with tempfile.TemporaryDirectory(prefix="vlmgym-") as folder:
        model = settings.model
        if model == TINY:
            model = str(make_demonstration_vlm(Path(folder) / "model"))
        workload = Workload(
            model,
            settings.num_groups,
            settings.group_size,
            settings.device,
            DTYPES[settings.device],
            settings.num_threads,
        )
        steps = _measure(settings, workload, progress)
        num_steps = settings.repeats * settings.steps_per_repeat
        num_params, work = _work(workload, range(NUM_WARM_UP, NUM_WARM_UP + num_steps))
        matmul_tflops = measure_matmul(workload)
    measured = {name: [step for repeat in repeats for step in repeat] for name, repeats in steps.items()}
    on_cpu = workload.device == "cpu"
    first, *others = settings.contenders
    return Figures(
        [
            WorkloadFigure(
                settings.model,
                workload.device,
                workload.dtype,
                workload.num_threads,
                num_params,
                workload.num_sequences,
                work[0].num_tokens,
                round(matmul_tflops, 4),
            )
        ],
        [learner_figure(name, measured[name], work, matmul_tflops, on_cpu=on_cpu) for name in settings.contenders],
        ratios_to(steps[first], {name: steps[name] for name in others}, on_cpu=on_cpu),
    )


def measure_matmul(workload: Workload) -> float:
    """TFLOP per second of large square matrix products, as fast as this device has them: what MFU is a share of."""
    torch.set_num_threads(workload.num_threads)
    size, dtype = MATMUL_SIZES[workload.device], getattr(torch, workload.dtype)
    left, right = (torch.randn(size, size, device=workload.device, dtype=dtype) for _ in range(2))
    best_s, end_s = float("inf"), time.monotonic() + MATMUL_S
    while time.monotonic() < end_s:
        started_s = time.monotonic()
        left @ right
        if workload.device == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.monotonic() - started_s)
    return 2 * size**3 / best_s / 1e12


def _measure(settings: Settings, workload: Workload, progress: Progress) -> dict[str, list[list[Step]]]:
    """Steps by contender and repeat."""
    num_steps = NUM_WARM_UP + settings.repeats * settings.steps_per_repeat
    total = len(settings.contenders) * num_steps
    steps: dict[str, list[list[Step]]] = {name: [] for name in settings.contenders}
    done = 0

    def take(name: str, count: int) -> list[Step]:
        nonlocal done
        taken = []
        for _ in range(count):
            progress(done, total, name)
            taken.append(runners[name].step())
            done += 1
        return taken

    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(Runner(CONTENDERS[name], workload, num_steps)) for name in settings.contenders
        }
        for name in settings.contenders:
            take(name, NUM_WARM_UP)
        for repeat in range(settings.repeats):
            turn = repeat % len(settings.contenders)
            for name in (*settings.contenders[turn:], *settings.contenders[:turn]):
                steps[name].append(take(name, settings.steps_per_repeat))
    return steps


def _work(workload: Workload, steps: range) -> tuple[int, list[Work]]:
    """The number of the model's parameters, and what each of these training steps has to do.

    FLOPs: 6 per parameter and token of the language model, 6 per parameter and patch of the vision tower, forward and
    backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), and a third of both for the reference's forward pass.
    Scores of attention, embeddings that are looked up and the output layer's tokens without a score are not told apart.
    """
    model = load_vlm(workload.model, torch.float32)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    num_vision = sum(parameter.numel() for parameter in vision_tower(model).parameters())
    processor = VLMProcessor(workload.model)
    work = []
    for step in steps:
        groups = deal(workload, step)
        tokens = sum(map(num_tokens, groups))
        patches = sum(_num_patches(processor, group) for group in groups)
        work.append(Work(tokens, (6 + 2) * ((num_params - num_vision) * tokens + num_vision * patches)))
    return num_params, work


def _num_patches(processor: VLMProcessor, group: Any) -> int:
    """Of the picture that all branches of a group begin with."""
    images = next(iter(group.agent_episodes.values())).get_observations(0).images
    return len(processor.collate([np.zeros(1, dtype=np.int32)], [images], padding="right")["pixel_values"])
