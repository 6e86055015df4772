"""What a `GRPOConfig` may not say: settings that are fixed, each with its reason, and ranges of the others."""

from __future__ import annotations

from typing import Any, get_args

from vlmgym.engine_placement import check_engines
from vlmgym.grpo.learner_config import check_learners
from vlmgym.grpo.mixture import Mixture
from vlmgym.grpo.variants import Advantage, AverageOver, Credit, Divergence, KLPlace, PolicyLoss
from vlmgym_policies.prompting import Observation
from vlmgym_policies.scoring import RewardWeights

FIXED = {
    "num_epochs": "GRPO takes one optimizer step per batch of groups",
    "minibatch_size": "one step per batch; use micro_batch_tokens to bound memory",
    "_train_batch_size_per_learner": "use num_groups_per_train_batch",
    "train_batch_size": "use num_groups_per_train_batch",
    "batch_mode": "groups are never cut",
    "rollout_fragment_length": "runners play whole groups",
    "add_default_connectors_to_learner_pipeline": "observations are prompts, not tensors",
    "enable_rl_module_and_learner": "this is an algorithm of the new API stack",
    "enable_env_runner_and_connector_v2": "this is an algorithm of the new API stack",
    "framework_str": "the models are torch models",
}
"""Settings of RLlib that must keep the value they start with, and why."""

_AT_LEAST_0 = (
    "max_dropped_groups",
    "max_uninformative_groups",
    "max_weights_lag",
    "step_weight",
    "kl_coeff",
    "entropy_coeff",
)
_AT_LEAST_1 = ("num_groups_per_train_batch", "micro_batch_tokens", "max_tokens")
_ABOVE_0 = (
    "clip_high",
    "env_step_timeout_s",
    "env_reset_timeout_s",
    "generation_timeout_s",
    "engine_restart_timeout_s",
)
_FRACTIONS = ("gamma", "clip_low")
_CHOICES: dict[str, Any] = {
    "stale_groups": ("wait", "drop"),
    "observation": get_args(Observation),
    "advantage": get_args(Advantage),
    "credit": get_args(Credit),
    "loss": get_args(PolicyLoss),
    "average_over": get_args(AverageOver),
    "kl": get_args(Divergence),
    "kl_in": get_args(KLPlace),
}


def check_rules(config: Any) -> None:
    """Raises ValueError for the first setting of a `GRPOConfig` that makes no sense, with what to use instead."""
    for name, reason in FIXED.items():
        if getattr(config, name) != config._fixed[name] and not config.in_evaluation:
            value = f"{config._fixed[name]!r}, got {getattr(config, name)!r}"
            raise ValueError(f"{name.lstrip('_')} must stay {value}: {reason}")
    _check_ranges(config)
    _check_objective(config)
    _check_observation(config)
    check_shared_evenly(config, "num_groups_per_train_batch")
    check_learners(config)
    check_engines(config)
    _check_games(config)


def _check_games(config: Any) -> None:
    """Each of these has one item per game, where it has any."""
    for name in ("game_weights", "game_rewards", "ladders"):
        num = len(getattr(config, name))
        if num not in (0, config.num_games):
            raise ValueError(f"{name} must have one item for each of the {config.num_games} games, got {num}")
    Mixture(config.weights_of_games)
    for game in range(config.num_games):
        RewardWeights.of("", **config.rewards_of_game(game))


def check_shared_evenly(config: Any, name: str) -> None:
    """Raises ValueError where a batch of `name` items cannot be cut into equal shares for the learners."""
    size = getattr(config, name)
    if size % max(1, config.num_learners):
        raise ValueError(f"{name} must divide by num_learners, got {size} and {config.num_learners}")


def _check_ranges(config: Any) -> None:
    for bound, names in ((0, _AT_LEAST_0), (1, _AT_LEAST_1)):
        for name in names:
            if getattr(config, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(config, name)}")
    for name in _ABOVE_0:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")
    if config.temperature <= 0:
        raise ValueError(f"temperature must be above 0 in training, got {config.temperature}")
    for name in _FRACTIONS:
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(config, name)}")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")


def _check_observation(config: Any) -> None:
    """Learners that average gradients wait for every trained weight, also for a vision tower that sees no picture."""
    if config.observation == "text" and config.num_learners > 1 and config.model_config["train_vision"]:
        raise ValueError("train_vision must be False with observation text and several learners, got True")


def _check_objective(config: Any) -> None:
    """Each of these would otherwise be read by nothing, or do no good."""
    if config.importance_cap is not None and config.importance_cap < 1:
        raise ValueError(f"importance_cap must be at least 1, got {config.importance_cap}")
    if config.dual_clip is not None and (config.dual_clip <= 1 or config.loss == "cispo"):
        raise ValueError(f"dual_clip must be above 1, and none with loss cispo, got {config.dual_clip}")
    if config.kl == "k1" and config.kl_in == "loss" and config.kl_coeff:
        raise ValueError("kl must be k2 or k3 in the loss, got k1: its gradient there is 0 on average")
    if config.gamma < 1 and config.credit == "episode" and not config.step_weight:
        raise ValueError(f"gamma must be 1 with credit episode and step_weight 0, got {config.gamma}")
    if config.advantage == "reinforce_pp" and config.step_weight:
        raise ValueError("step_weight must be 0 with advantage reinforce_pp, which compares no siblings")
