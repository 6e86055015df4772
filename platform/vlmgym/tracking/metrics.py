"""Decides which metrics a run records: each is declared here once; docs/metrics.md and the dashboards come from here.

A metric is one number per step of a stage, `STAGE/NAME` over `STAGE/step`. A name may hold fields, as {game}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from vlmgym.curves import COLD_START, GRPO
from vlmgym_policies.insight import ERRORS

STEPS: Mapping[str, str] = {COLD_START: "optimizer updates", GRPO: "iterations: one batch of groups and one update"}
"""The stages, and what their steps count."""
STEP = "step"

FIELDS: Mapping[str, str] = {
    "mode": "how the held-out answers are decoded: sampled at the training temperature, or greedy",
    "game": "id of the game",
    "level": "name of the level; what is no letter, digit, dot or underscore is written as a dash",
    "axis": "an axis of the game's curriculum, as the job names it",
}
"""What stands in the braces of names."""


class Metric(NamedTuple):
    """source: where RLlib's result of a step holds it, () for what is measured beside it.

    known_as: what other systems call it. only: when it is recorded, where that is not in every step.
    """

    name: str
    unit: str
    meaning: str
    source: tuple[str, ...] = ()
    known_as: str = ""
    only: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in braces, in order."""
        return tuple(re.findall(r"{(\w+)}", self.name))

    def match(self, name: str) -> Mapping[str, str] | None:
        """The values of the fields where `name` is one of this metric, else None."""
        found = _pattern(self.name).fullmatch(name)
        return None if found is None else found.groupdict()


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(name)))


_SHARE = "share"
_KNOWN_IN_EVERY_GROUP = {
    "legal_move_rate": "answers that the rules accept",
    "progress_rate": "answers that the game rewards",
    "format_rate": "responses with all three tag pairs",
    "perception_cells": "cells of a board that the perception block names right, mean over decisions",
    "perception_board": "boards perceived right as a whole",
    "described_rate": "perception blocks that describe a board of the level, be it another one",
}
_KNOWN_IN_SOME = {
    "reasoning_given_perception": ("legal answers among those whose whole board was perceived right", "a board was"),
    "reasoning_as_perceived": ("answers legal on the board that the response itself describes", "a board is described"),
    "best_move_rate": ("legal answers worth as much as the solver's action", "a game is not over"),
}


def _rates(prefix: str, source: tuple[str, ...], only: str = "", *, known_as: bool = False) -> Iterator[Metric]:
    """What the tally of some decisions tells (`vlmgym_policies.insight`)."""
    for name, meaning in _KNOWN_IN_EVERY_GROUP.items():
        also = "G1: format reward" if known_as and name == "format_rate" else ""
        yield Metric(prefix + name, _SHARE, meaning, (*source, name) if source else (), also, only)
    for name, (meaning, condition) in _KNOWN_IN_SOME.items():
        when = f"{only}; " if only else ""
        yield Metric(prefix + name, _SHARE, meaning, (*source, name) if source else (), "", f"{when}where {condition}")
    for name, meaning in ERRORS.items():
        full = f"perception_error/{name}"
        path = (*source, full) if source else ()
        yield Metric(prefix + full, _SHARE, f"cells perceived wrong: {meaning}", path, "", only)


_OF_A_GAME = "game/{game}/{level}/"


def _game_metrics(prefix: str, source: tuple[str, ...], only: str = "") -> Iterator[Metric]:
    """The same of one game at one level, and what makes sense there alone."""
    yield from _rates(prefix + _OF_A_GAME, source, only)
    when = f"{only}; " if only else ""
    yield Metric(
        prefix + _OF_A_GAME + "regret",
        "by game",
        "what an answer is worth less than the solver's action, in the unit of the game's page",
        (*source, "regret") if source else (),
        "",
        f"{when}where a game is not over",
    )


_RUNNERS, _LEARNER = ("env_runners",), ("learners", "policy")
_IN_GAME = (*_RUNNERS, "game", "{game}", "{level}")
_AT_EVALUATIONS = "at evaluations"

EVALUATION: Sequence[Metric] = (
    *_rates("evaluation/{mode}/", (), _AT_EVALUATIONS),
    *_game_metrics("evaluation/{mode}/", (), _AT_EVALUATIONS),
)

_UPDATE: Sequence[Metric] = (
    Metric("loss", "nats per token", "what the optimizer minimises", (*_LEARNER, "loss"), "verl: actor/loss"),
    Metric("entropy", "nats per token", "entropy of the policy", (*_LEARNER, "entropy"),
           "verl: actor/entropy, TRL: entropy"),
    Metric("grad_norm", "", "norm of the gradient before clipping",
           (*_LEARNER, "gradient_norm"), "verl: actor/grad_norm, TRL: grad_norm"),
    Metric("lr", "", "learning rate", (*_LEARNER, "default_optimizer_learning_rate"), "verl: actor/lr"),
    Metric("num_tokens", "tokens", "prompt and response tokens of the update", (*_LEARNER, "num_tokens"),
           "TRL: num_tokens"),
    Metric("padding_fraction", _SHARE, "of the tokens computed, those that are padding",
           (*_LEARNER, "padding_fraction")),
    Metric("num_image_mismatches", "sequences", "left out, since learner and engine saw different pixels",
           (*_LEARNER, "num_image_mismatches")),
    Metric("timing_s/update", "s", "in the update", ("timers", "learner_update_timer"), "verl: timing_s/update_actor"),
    Metric("timing_s/sync_weights", "s", "in giving the engines the new weights", ("timers", "synch_weights")),
)  # fmt: skip

_ROLLOUT: Sequence[Metric] = (
    Metric("reward", "reward", "mean return of a branch, all parts weighed", (*_RUNNERS, "episode_return_mean"),
           "verl: critic/score/mean, TRL: reward, RLlib: env_runners/episode_return_mean"),
    Metric("reward_std", "reward", "standard deviation within a group", (*_RUNNERS, "group_return_std"),
           "TRL: reward_std"),
    Metric("frac_reward_zero_std", _SHARE, "groups whose rewards are all equal: nothing to learn from",
           (*_RUNNERS, "zero_std_fraction"), "TRL: frac_reward_zero_std"),
    Metric("game_reward", "reward", "what a decision earned from the game, before weighing",
           (*_RUNNERS, "game_reward")),
    Metric("response_length/mean", "tokens", "of a response", (*_RUNNERS, "response_tokens"),
           "verl: response_length/mean, TRL: completions/mean_length"),
    Metric("response_length/clip_ratio", _SHARE, "responses cut at the longest length", (*_RUNNERS, "truncated_rate"),
           "verl: response_length/clip_ratio, TRL: completions/clipped_ratio"),
    Metric("prompt_length/cut_ratio", _SHARE, "prompts that lost turns to fit", (*_RUNNERS, "cut_prompt_rate")),
    *_rates("", _RUNNERS, known_as=True),
    *_game_metrics("", _IN_GAME),
    Metric("game/{game}/{level}/game_reward", "reward", "what a decision earned from the game, before weighing",
           (*_IN_GAME, "game_reward")),
    Metric("game/{game}/{level}/num_decisions", "decisions", "learned from in this step", (*_IN_GAME, "num_decisions")),
    Metric("game/{game}/{level}/solve_rate", _SHARE, "branches that end with the game won", (*_IN_GAME, "solve_rate"),
           only="where the game says so, as 2048 and Swap do not"),
)  # fmt: skip

_POLICY: Sequence[Metric] = (
    Metric("policy_loss", "", "the clipped surrogate", (*_LEARNER, "policy_loss"), "verl: actor/pg_loss"),
    Metric("kl", "nats per token", "k3 estimate of the divergence from the start model", (*_LEARNER, "kl"),
           "verl: actor/kl_loss, TRL: kl", "with grpo.kl_coeff above 0"),
    Metric("clip_ratio", _SHARE, "tokens whose gradient the clip removed", (*_LEARNER, "clip_fraction"),
           "verl: actor/pg_clipfrac, TRL: clip_ratio/region_mean"),
    Metric("logprob_mismatch/mean", "nats", "|learner - sampler| of a token's log-probability before the update",
           (*_LEARNER, "logprob_mismatch"), "TRL: sampling/sampling_logp_difference/mean"),
    Metric("logprob_mismatch/max", "nats", "the largest such difference", (*_LEARNER, "logprob_mismatch_max"),
           "TRL: sampling/sampling_logp_difference/max"),
    Metric("weights_version_lag", "updates", "how far the weights of the oldest response are behind",
           ("weights_version_lag",)),
)  # fmt: skip

_SINCE_START: Sequence[tuple[str, str, str]] = (
    ("num_groups_requested", "groups", "asked for"),
    ("num_groups_dropped", "groups", "lost to a fault"),
    ("num_groups_stale", "groups", "left out as too old"),
    ("num_groups_uninformative", "groups", "replaced, since all rewards were equal"),
    ("num_groups_redone", "groups", "asked for again, since an engine or runner was lost"),
    ("num_engines_replaced", "engines", "lost and replaced"),
)
_COUNTS: Sequence[Metric] = tuple(
    Metric(name, unit, f"{meaning}, since the start", (f"{name}_lifetime",)) for name, unit, meaning in _SINCE_START
)

_AXIS = ("curriculum", "{game}", "{axis}")
_CURRICULUM: Sequence[Metric] = (
    Metric("curriculum/{game}/{axis}/step", "steps", "where the axis stands, from 0, the easiest", (*_AXIS, "step"),
           only="where the game has a curriculum"),
    Metric("curriculum/{game}/{axis}/success_rate", _SHARE, "over the groups so far that a move is decided on",
           (*_AXIS, "success_rate"), only="where the game has a curriculum; once a group counts"),
)  # fmt: skip

_SPEED: Sequence[Metric] = (
    Metric("timing_s/sample", "s", "waiting for groups", ("timers", "env_runner_sampling_timer"), "verl: timing_s/gen"),
    Metric("timing_s/step", "s", "in the whole iteration, without evaluation", known_as="verl: timing_s/step"),
    Metric("perf/tokens_per_s", "tokens/s", "prompt and response tokens learned from, per second of the iteration",
           known_as="verl: perf/throughput"),
    Metric("num_alerts", "alerts", "raised since the start of this process"),
    Metric("num_restarts", "restarts", "from the last checkpoint after a failure, since the start of this process"),
    Metric("num_skipped_updates", "updates", "skipped since a gradient was not finite, since the start",
           ("learners", "num_skipped_updates")),
)  # fmt: skip

METRICS: Mapping[str, Sequence[Metric]] = {
    COLD_START: (*_UPDATE, *EVALUATION),
    GRPO: (*_ROLLOUT, *_POLICY, *_UPDATE, *_COUNTS, *_CURRICULUM, *_SPEED, *EVALUATION),
}
"""Every metric by stage."""


def find_metric(stage: str, name: str) -> tuple[Metric, Mapping[str, str]] | None:
    """The declaration of a recorded name, with the values of its fields; None for one that is not declared."""
    for metric in METRICS.get(stage, ()):
        fields = metric.match(name)
        if fields is not None:
            return metric, fields
    return None
