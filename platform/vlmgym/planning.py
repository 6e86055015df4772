"""Decides what a job needs before it starts: bundles of CPUs and GPUs, and an estimate of the memory of each actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from vlmgym.job import Job
from vlmgym.memory_plan import BYTES, WHILE_UPDATING, Batch, LearnerSetup, learner_bytes
from vlmgym.model_source import ModelShape, model_shape

PROMPT_TOKENS = 1024
"""Tokens of a prompt, picture included, that the estimate assumes: the paper's bound."""

CHARACTERS_PER_TOKEN = 4
"""Of an instruction, about, with a tokenizer for English."""

GIB = 2**30
GPUS_GIB = (16, 24, 40, 48, 80, 96, 141, 180, 288)
"""Sizes that GPUs are sold in."""

FREE_FRACTION = 0.1
"""Of a GPU, for what is not counted: CUDA itself, buffers of collectives, fragmentation."""


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
    """Memory of a learner (`learner_bytes`) and of an engine, or of each worker of one: its share of the weights, and

        KV cache     2 b L K * (PROMPT_TOKENS + max_tokens) * engine.max_batch_size, where every response is longest

    with L layers of K numbers of a key (or value) per token.
    """
    b, workers = BYTES[job.model.dtype], job.engine.tensor_parallel
    longest_tokens = PROMPT_TOKENS + job.sampling.max_tokens
    kv_cache = 2 * b * shape.text.num_layers * shape.text.kv_size * longest_tokens * job.engine.max_batch_size
    learner = learner_bytes(shape, learner_setup(job), largest_batch(job, shape))
    engine = {"weights": shape.num_params * b / workers, "KV cache": kv_cache / workers}
    return [
        Memory("learner", {name: size / GIB for name, size in learner.items()}),
        Memory("engine", {name: size / GIB for name, size in engine.items()}),
    ]


def learner_setup(job: Job) -> LearnerSetup:
    """How the learners of a job hold its model."""
    learners, lora = job.learners, job.model.lora
    is_sharded = learners.parallelism == "fsdp2"
    adapted = None if lora is None or isinstance(lora.target_modules, str) else lora.target_modules
    return LearnerSetup(
        dtype=job.model.dtype,
        num_shards=max(1, learners.count) if is_sharded else 1,
        is_sharded=is_sharded,
        in_buckets=learners.count > 1 and not is_sharded,
        train_vision=job.model.train_vision,
        has_reference=job.grpo.kl_coeff > 0,
        adapter_rank=0 if lora is None else lora.rank,
        adapted=adapted,
        activation_checkpointing=learners.activation_checkpointing,
        offload_optimizer=learners.offload_optimizer,
        offload_reference=learners.offload_reference,
    )


def largest_batch(job: Job, shape: ModelShape) -> Batch:
    """A full micro-batch of the game with the largest picture: with as many pictures as if responses were empty, as
    many scored tokens as if all were longest.
    """
    side_px = shape.patch_px * shape.merge
    games = [game.make(**knobs) for game in job.mixture for knobs in game.knobs_in_training()]
    sizes = [(round(game.image_shape[0] / side_px) * round(game.image_shape[1] / side_px), game) for game in games]
    picture, game = max(sizes, key=lambda size: size[0])
    prompt = picture + len(game.prompt) / CHARACTERS_PER_TOKEN
    num_tokens, longest = job.learners.micro_batch_tokens, job.sampling.max_tokens
    return Batch(
        num_tokens,
        num_scored=round(num_tokens * longest / (prompt + longest)),
        num_patches=round(num_tokens * picture / prompt) * shape.merge**2,
    )


def smallest_gpu_gib(needed_gib: float) -> int | None:
    """The smallest GPU that holds this and has FREE_FRACTION left; None where none does."""
    return min((size for size in GPUS_GIB if needed_gib <= size * (1 - FREE_FRACTION)), default=None)


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
    table = Table(title="Memory per actor, estimated, GiB", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("role", "on", "holds", "total"):
        table.add_column(column, justify="right" if column == "total" else "left", overflow="fold")
    estimate = memory_estimate(job, shape)
    on_gpu = {"learner": job.learners.num_gpus > 0, "engine": _engine_on_gpu(job)}
    for memory in estimate:
        holds = ", ".join(f"{name} {gib:.1f}" for name, gib in memory.parts.items())
        table.add_row(memory.role, "GPU" if on_gpu[memory.role] else "CPU", holds, f"{memory.total_gib:.1f}")
    console.print(f"Model: {shape.num_params / 1e9:.2f} billion parameters in {job.model.dtype}")
    console.print(table)
    for memory in _per_gpu(job, estimate):
        size_gib = smallest_gpu_gib(memory.total_gib)
        largest = f"more than the {GPUS_GIB[-1]} GiB of the largest GPU"
        fits = largest if size_gib is None else f"a GPU of {size_gib} GiB or more"
        console.print(f"The {memory.role} needs {fits}: {memory.total_gib:.1f} GiB, and a tenth of it free.")


def _per_gpu(job: Job, estimate: Sequence[Memory]) -> list[Memory]:
    """What one GPU has to hold at once. Colocated, an engine sleeps while the learner updates, which keeps its weights
    and moments while the engine samples.
    """
    learner, engine = estimate
    on_gpu = [learner] if job.learners.num_gpus else []
    if job.engine.placement != "colocated":
        return on_gpu + ([engine] if job.engine.num_gpus else [])
    if not on_gpu:
        return []
    kept = {name: gib for name, gib in learner.parts.items() if name not in WHILE_UPDATING}
    sampling = Memory("learner with its engine", {**kept, "engine": engine.total_gib})
    return [max(learner._replace(role=sampling.role), sampling, key=lambda memory: memory.total_gib)]


def _engine_on_gpu(job: Job) -> bool:
    return bool(job.learners.num_gpus if job.engine.placement == "colocated" else job.engine.num_gpus)
