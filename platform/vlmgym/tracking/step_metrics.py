"""Which of an RLlib result's numbers a run records, under the names people know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmgym.grpo.config import POLICY_ID
from vlmgym.grpo.group_stats import SCORE
from vlmgym.grpo.runner import PlayedGroup
from vlmgym.tracking.tracker import Rollout

ENV_RUNNER_NAMES = {
    "reward": "episode_return_mean",
    "reward_std": "group_return_std",
    "frac_reward_zero_std": "zero_std_fraction",
    "game_reward": "game_reward",
    "legal_move_rate": "legal_move_rate",
    "format_rate": "format_rate",
    "perception_cells": "perception_cells",
    "perception_board": "perception_board",
    "response_length/mean": "response_tokens",
    "response_length/clip_ratio": "truncated_rate",
    "prompt_length/cut_ratio": "cut_prompt_rate",
}
LEARNER_NAMES = {
    "loss": "loss",
    "policy_loss": "policy_loss",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio": "clip_fraction",
    "grad_norm": "gradients_default_optimizer_global_norm",
    "lr": "default_optimizer_learning_rate",
    "logprob_mismatch/max": "logprob_mismatch_max",
    "logprob_mismatch/mean": "logprob_mismatch",
    "num_tokens": "num_tokens",
    "padding_fraction": "padding_fraction",
    "num_image_mismatches": "num_image_mismatches",
}
TIMER_NAMES = {
    "timing_s/sample": "env_runner_sampling_timer",
    "timing_s/update": "learner_update_timer",
    "timing_s/sync_weights": "synch_weights",
}
TOP_NAMES = {
    "weights_version_lag": "weights_version_lag",
    "num_groups_requested": "num_groups_requested_lifetime",
    "num_groups_dropped": "num_groups_dropped_lifetime",
    "num_groups_stale": "num_groups_stale_lifetime",
    "num_groups_uninformative": "num_groups_uninformative_lifetime",
    "num_groups_redone": "num_groups_redone_lifetime",
    "num_engines_replaced": "num_engines_replaced_lifetime",
}


def grpo_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one GRPO iteration."""
    return {
        **_picked(result["env_runners"], ENV_RUNNER_NAMES),
        **_picked(result["learners"][POLICY_ID], LEARNER_NAMES),
        **_picked(result["timers"], TIMER_NAMES),
        **_picked(result, TOP_NAMES),
    }


def cold_start_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the last update of a cold-start iteration."""
    return {**_picked(result["learners"][POLICY_ID], LEARNER_NAMES), **_picked(result["timers"], TIMER_NAMES)}


def rollouts_of(groups: Sequence[PlayedGroup], num: int) -> list[Rollout]:
    """The first decision of the first `num` branches, group after group."""
    rollouts: list[Rollout] = []
    for group in groups:
        if len(rollouts) == num:
            break
        for branch in list(group.episode.agent_episodes.values())[: num - len(rollouts)]:
            prompt = branch.get_observations(0)
            score = branch.get_infos(1)[SCORE]
            rewards = {"reward": score.reward, "game": score.game_reward, "perception_cells": score.cells}
            rewards |= {"perception_board": float(score.board), "format": float(score.well_formed)}
            rollouts.append(Rollout(prompt.images[-1], prompt.messages[-1].text, branch.get_actions(0), rewards))
    return rollouts


def _picked(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    return {ours: float(values[theirs]) for ours, theirs in names.items() if theirs in values}
