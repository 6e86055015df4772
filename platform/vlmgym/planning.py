"""Decides what a job needs before it starts: bundles of CPUs and GPUs, and an estimate of the memory of each actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from vlmgym.job import Job
from vlmgym.model_source import ModelShape, model_shape

PROMPT_TOKENS = 1024
"""Tokens of a prompt, picture included, that the estimate assumes: the paper's bound."""

LAYER_VALUES_PER_TOKEN = 34 / 2
"""Numbers kept for the backward pass per token, layer and hidden unit, attention scores not kept: the 34 bytes at 2
bytes a number of Korthikanti et al. 2022 (arXiv 2205.05198, eq. 1 without its last term)."""

LOGIT_COPIES = 5
"""float32 arrays [tokens, vocabulary] that live at once while log-probabilities and entropy are computed."""

BYTES = {"float32": 4, "bfloat16": 2}
GIB = 2**30
LARGEST_GPU_GIB = 80


class Bundle(NamedTuple):
    """What each of `num_actors` actors of a role reserves. count_key: the knob that sets how many."""

    role: str
    count_key: str
    num_actors: int
    cpus: float
    gpus: float


class Memory(NamedTuple):
    """An estimate for one actor of a role: GiB by what it holds."""

    role: str
    parts: dict[str, float]

    @property
    def total_gib(self) -> float:
        return sum(self.parts.values())


def placement(job: Job) -> list[Bundle]:
    """What Ray has to reserve. The driver reserves nothing; without learner actors it learns itself.

    Colocated engines reserve no GPU: they have those of the learners.
    """
    engine = job.engine
    bundles = [
        Bundle("engine", "engine.replicas", engine.replicas, engine.num_cpus, engine.num_gpus),
        Bundle("env runner", "env_runners.count", job.env_runners.count, job.env_runners.num_cpus, 0.0),
    ]
    if num := job.evaluation.serve_replicas:
        bundles.append(Bundle("evaluation", "evaluation.serve_replicas", num, engine.num_cpus, engine.num_gpus))
    learners = job.learners
    if learners.count:
        bundles.insert(0, Bundle("learner", "learners.count", learners.count, learners.num_cpus, learners.num_gpus))
    return bundles


def memory_estimate(job: Job, shape: ModelShape) -> list[Memory]:
    """Memory of a learner and of an engine, with b bytes a weight, P parameters of which T are trained, L layers of
    width H, V words, K = numbers of a key (or value) per token and layer, N = learners.micro_batch_tokens:

        weights      P b
        reference    P b             the frozen start model, where grpo.kl_coeff > 0
        gradients    T b
        moments      2 T b           AdamW's two
        activations  17 b L H N + 4 * LOGIT_COPIES * V * (N's share of responses)
        KV cache     2 b L K * (PROMPT_TOKENS + max_tokens) * engine.max_batch_size, where every response is longest

    Buffers of collectives and fragmentation are not counted.
    """
    b = BYTES[job.model.dtype]
    trained = shape.num_params - (0 if job.model.train_vision else shape.num_vision_params)
    tokens = job.learners.micro_batch_tokens
    answer_tokens = job.sampling.max_tokens
    longest_tokens = PROMPT_TOKENS + answer_tokens
    layers = LAYER_VALUES_PER_TOKEN * b * shape.num_layers * shape.hidden_size * tokens
    logits = 4 * LOGIT_COPIES * shape.vocab_size * tokens * answer_tokens / longest_tokens
    kv_cache = 2 * b * shape.num_layers * shape.kv_size * longest_tokens * job.engine.max_batch_size
    learner = {
        "weights": shape.num_params * b,
        "reference": shape.num_params * b if job.grpo.kl_coeff else 0,
        "gradients": trained * b,
        "moments": 2 * trained * b,
        "activations": layers + logits,
    }
    engine = {"weights": shape.num_params * b, "KV cache": kv_cache}
    return [
        Memory("learner", {name: size / GIB for name, size in learner.items()}),
        Memory("engine", {name: size / GIB for name, size in engine.items()}),
    ]


def print_plan(console: Console, job: Job) -> None:
    """Prints the resolved job, its placement and the estimate of memory."""
    values = job.model_dump(mode="json")
    console.print(
        yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110), markup=False, soft_wrap=True
    )
    _print_placement(console, placement(job), has_learners=job.learners.count > 0)
    if job.engine.placement == "colocated":
        console.print("Engines are colocated: they share the learners' GPUs, and sleep while those update.")
    if job.model.path is None:
        console.print("Memory: the tiny model takes less than 1 GiB per process.")
        return
    shape = model_shape(job.model.path)
    if shape is None:
        console.print(f"Memory: unknown model size: {job.model.path} is not here, nor a published size known offline.")
        return
    _print_memory(console, job, shape)


def _print_placement(console: Console, bundles: Sequence[Bundle], *, has_learners: bool) -> None:
    table = Table(title="Placement", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("role", "actors", "CPUs each", "GPUs each", "CPUs", "GPUs"):
        table.add_column(column, justify="left" if column == "role" else "right")
    table.add_row("driver" if has_learners else "driver (and learner)", "-", "-", "-", "-", "-")
    for role, _, num, cpus, gpus in bundles:
        table.add_row(role, *(f"{number:g}" for number in (num, cpus, gpus, num * cpus, num * gpus)))
    table.add_section()
    totals = (sum(bundle.num_actors * getattr(bundle, kind) for bundle in bundles) for kind in ("cpus", "gpus"))
    table.add_row("total", "", "", "", *(f"{total:g}" for total in totals))
    console.print(table)


def _print_memory(console: Console, job: Job, shape: ModelShape) -> None:
    on_gpu = {"learner": job.learners.num_gpus > 0, "engine": job.engine.num_gpus > 0}
    table = Table(title="Memory per actor, estimated, GiB", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("role", "on", "holds", "total"):
        table.add_column(column, justify="right" if column == "total" else "left", overflow="fold")
    estimate = memory_estimate(job, shape)
    for memory in estimate:
        holds = ", ".join(f"{name} {gib:.1f}" for name, gib in memory.parts.items())
        table.add_row(memory.role, "GPU" if on_gpu[memory.role] else "CPU", holds, f"{memory.total_gib:.1f}")
    console.print(f"Model: {shape.num_params / 1e9:.2f} billion parameters in {job.model.dtype}")
    console.print(table)
    for memory in estimate:
        if on_gpu[memory.role] and memory.total_gib > LARGEST_GPU_GIB:
            console.print(f"The {memory.role} needs more than a GPU of {LARGEST_GPU_GIB} GiB holds.")
