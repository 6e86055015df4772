"""How a job becomes the RLlib configurations of its stages."""

from __future__ import annotations

import logging
from typing import Any

from vlmgym.cold_start import ColdStartConfig
from vlmgym.curves import GRPO
from vlmgym.grpo.config import GRPOConfig
from vlmgym.job import Job, JobError
from vlmgym.settings import EnvRunnerSettings, GameSettings
from vlmgym.tracking.metrics import METRICS, find_metric
from vlmgym_envs.names import unknown_name

MAX_UPDATES_PER_ITERATION = 20
Schedule = list[tuple[int, float]]
_OBJECTIVE = (
    "advantage",
    "credit",
    "gamma",
    "step_weight",
    "loss",
    "average_over",
    "clip_low",
    "clip_high",
    "dual_clip",
    "importance_cap",
    "kl",
    "kl_in",
    "kl_coeff",
    "entropy_coeff",
)
"""Knobs of a job that `GRPOConfig.training` has by the same name."""


def check_stages(job: Job) -> None:
    """Raises JobError where RLlib or GRPO would refuse the job later, or a checkpoint could not be the best.

    RLlib's advice to its own users is held back.
    """
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    model_path = job.model.path or "made on start"
    if find_metric(GRPO, job.checkpoints.best_metric) is None:
        known = [metric.name for metric in METRICS[GRPO]]
        raise JobError(f"checkpoints.best_metric: {unknown_name('metric', job.checkpoints.best_metric, known)}")
    try:
        grpo_config(job, model_path).validate()
        if job.cold_start is not None:
            cold_start_config(job, model_path).validate()
    except ValueError as error:
        raise JobError(str(error)) from error


def grpo_config(job: Job, model_path: str) -> GRPOConfig:
    """The reinforcement learning of `job`, from the model at `model_path`, which is its reference too."""
    settings = job.grpo
    config = _shared(GRPOConfig(), job, model_path, group_size=settings.group_size)
    per_iteration = settings.groups * settings.group_size
    config.env_runners(
        num_env_runners=job.env_runners.count,
        num_envs_per_env_runner=job.env_runners.envs_per_runner,
        num_cpus_per_env_runner=job.env_runners.num_cpus,
        custom_resources_per_env_runner=runner_resources(job.env_runners),
    )
    config.training(
        lr=warmup_schedule(settings.lr, settings.warmup_iterations, per_iteration),
        num_groups_per_train_batch=settings.groups,
        max_weights_lag=settings.max_weights_lag,
        stale_groups=settings.stale_groups,
        max_uninformative_groups=settings.max_uninformative_groups,
        **{name: getattr(settings, name) for name in _OBJECTIVE},
        grad_clip=settings.grad_clip,
        weight_decay=settings.weight_decay,
        adam_betas=settings.adam_betas,
        micro_batch_tokens=job.learners.micro_batch_tokens,
    )
    return config


def runner_resources(settings: EnvRunnerSettings) -> dict[str, float]:
    """What a runner reserves besides CPUs. Every node has one of any resource with Ray's prefix, so shares of it bound
    the runners per node; Serve bounds its replicas in the same way."""
    from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]  # compiled

    if settings.max_per_node is None:
        return dict(settings.resources)
    return {**settings.resources, f"{IMPLICIT_RESOURCE_PREFIX}vlmgym_env_runner": 1.0 / settings.max_per_node}


def cold_start_config(job: Job, model_path: str) -> ColdStartConfig:
    """The supervised warm-up of `job`. One RLlib iteration is a divisor of `eval_every`, so that both end together."""
    settings = job.cold_start
    assert settings is not None, "the job has no cold start"
    config = _shared(ColdStartConfig(), job, model_path, group_size=job.grpo.group_size)
    config.env_runners(num_env_runners=0)
    config.demonstrations(
        teacher=[job.teacher(game) for game in job.mixture],
        wording=settings.wording,
        data=settings.data,
        demonstrations_per_update=settings.batch_size,
        updates_per_iteration=updates_per_iteration(job),
        answer_weight=settings.answer_weight,
    )
    config.training(
        lr=trapezoid_schedule(
            settings.lr, settings.updates, settings.warmup_updates, settings.decay_fraction, settings.batch_size
        ),
        weight_decay=settings.weight_decay,
        adam_betas=settings.adam_betas,
        micro_batch_tokens=job.learners.micro_batch_tokens,
    )
    return config


def updates_per_iteration(job: Job) -> int:
    """The largest number up to MAX_UPDATES_PER_ITERATION that divides both `updates` and `eval_every`."""
    settings = job.cold_start
    assert settings is not None, "the job has no cold start"
    sizes = range(MAX_UPDATES_PER_ITERATION, 0, -1)
    return next(n for n in sizes if settings.updates % n == 0 and settings.eval_every % n == 0)


def warmup_schedule(lr: float, warmup: int, steps_per_update: int) -> float | Schedule:
    """Linear from lr / warmup at the first update to lr at update `warmup`; RLlib counts decisions.

    >>> warmup_schedule(1.0, 5, 10)
    [(0, 0.2), (40, 1.0)]
    """
    return [(0, lr / warmup), ((warmup - 1) * steps_per_update, lr)] if warmup > 1 else lr


def trapezoid_schedule(
    lr: float, updates: int, warmup: int, decay_fraction: float, steps_per_update: int
) -> float | Schedule:
    """Up linearly over `warmup` updates, level, and down to 0 over the last `decay_fraction` of all updates.

    >>> trapezoid_schedule(1.0, 100, 5, 0.2, 10)
    [(0, 0.2), (40, 1.0), (800, 1.0), (1000, 0.0)]
    """
    rise = warmup_schedule(lr, warmup, steps_per_update)
    decay_from = round(updates * (1.0 - decay_fraction))
    if decay_from == updates:
        return rise
    points = rise if isinstance(rise, list) else [(0, lr)]
    level = [(decay_from * steps_per_update, lr)] if decay_from * steps_per_update > points[-1][0] else []
    return [*points, *level, (updates * steps_per_update, 0.0)]


def _shared(config: Any, job: Job, model_path: str, *, group_size: int) -> Any:
    """What both stages have in common: the game, the model, who learns, who generates."""
    config.environment(env_config={"group_size": group_size, "games": [_env_config(game) for game in job.mixture]})
    config.games(
        weights=[game.weight for game in job.mixture],
        rewards=[game.reward.model_dump(exclude={"rule"}) for game in job.mixture],
        ladders=[None if game.curriculum is None else game.curriculum.make() for game in job.mixture],
    )
    lora = None if job.model.lora is None else job.model.lora.model_dump()
    config.vlm(model_path, dtype=job.model.dtype, train_vision=job.model.train_vision, lora=lora)
    config.prompting(observation=job.prompt.observation, history=job.prompt.history.make())
    config.sampling(temperature=job.sampling.temperature, max_tokens=job.sampling.max_tokens)
    config.engines(
        engine_type=job.engine.type,
        num_engines=job.engine.replicas,
        num_cpus_per_engine=job.engine.num_cpus,
        num_gpus_per_engine=job.engine.num_gpus,
        engine_placement=job.engine.placement,
        tensor_parallel=job.engine.tensor_parallel,
        engine_options=_engine_options(job),
    )
    config.timeouts(
        env_step_timeout_s=job.env_runners.step_timeout_s,
        env_reset_timeout_s=job.env_runners.reset_timeout_s,
        generation_timeout_s=job.engine.timeout_s,
        engine_restart_timeout_s=job.engine.restart_timeout_s,
    )
    config.learners(
        num_learners=job.learners.count,
        num_cpus_per_learner=job.learners.num_cpus,
        num_gpus_per_learner=job.learners.num_gpus,
        parallelism=job.learners.parallelism,
        activation_checkpointing=job.learners.activation_checkpointing,
        offload_optimizer=job.learners.offload_optimizer,
        offload_reference=job.learners.offload_reference,
    )
    config.debugging(seed=job.seed, log_level="ERROR")
    return config


def _env_config(game: GameSettings) -> dict[str, Any]:
    """What `GroupEnvConfig` takes of a game."""
    return {
        "game": game.id,
        "level": game.level,
        "overrides": dict(game.overrides),
        "start": game.start,
        "num_turns": game.num_turns,
        "held_out": game.held_out,
        "reward": game.reward.rule,
    }


def _engine_options(job: Job) -> dict[str, Any]:
    engine = job.engine
    options: dict[str, Any] = {"max_batch_size": engine.max_batch_size, "in_flight": engine.in_flight}
    if engine.max_model_len is not None:
        options["max_model_len"] = engine.max_model_len
    if engine.type == "vllm":
        options["gpu_memory_utilization"] = engine.gpu_memory_utilization
    return options
