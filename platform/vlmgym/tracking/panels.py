"""Decides which metrics a dashboard shows together, whatever draws it: wandb's workspace and report, and Grafana."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vlmgym.curves import COLD_START, GRPO
from vlmgym_policies.insight import ERRORS

OF_A_GAME = "game/{game}/{level}/"
HELD_OUT = "evaluation/{mode}/" + OF_A_GAME


class Panel(NamedTuple):
    """One set of axes: declared names of metrics of one stage, which have one unit."""

    title: str
    metrics: Sequence[str]
    stage: str = GRPO


SECTIONS: Mapping[str, Sequence[Panel]] = {
    "Results": (
        Panel("Reward", ("reward",)),
        Panel("Legal moves, held out", ("evaluation/{mode}/legal_move_rate",)),
        Panel("Moves as good as the solver's, held out", ("evaluation/{mode}/best_move_rate",)),
        Panel("Legal moves of each game and level", (OF_A_GAME + "legal_move_rate",)),
        Panel("Moves that a game rewards, held out", (HELD_OUT + "progress_rate",)),
        Panel("Games won, by level", (OF_A_GAME + "solve_rate",)),
        Panel("Regret against the solver, by level", (OF_A_GAME + "regret",)),
    ),
    "Curriculum": (
        Panel("Step of each axis", ("curriculum/{game}/{axis}/step",)),
        Panel("Success on it", ("curriculum/{game}/{axis}/success_rate",)),
    ),
    "Perception": (
        Panel("Whole boards perceived right", ("perception_board", "evaluation/{mode}/perception_board")),
        Panel("Cells perceived right", ("perception_cells", "evaluation/{mode}/perception_cells")),
        Panel("How cells are perceived wrong", tuple(f"perception_error/{name}" for name in ERRORS)),
        Panel("Boards by game and level, held out", (HELD_OUT + "perception_board",)),
    ),
    "Reasoning": (
        Panel("Legal, where the board was perceived right", ("reasoning_given_perception",)),
        Panel("Legal on the board as perceived", ("reasoning_as_perceived",)),
        Panel("The same, held out", ("evaluation/{mode}/reasoning_given_perception",)),
        Panel("Moves as good as the solver's", ("best_move_rate",)),
    ),
    "Policy": (
        Panel("KL to the start model", ("kl",)),
        Panel("Entropy", ("entropy",)),
        Panel("Gradient norm", ("grad_norm",)),
        Panel("Clipped tokens", ("clip_ratio",)),
        Panel("Groups of equal rewards", ("frac_reward_zero_std",)),
        Panel("Format", ("format_rate",)),
        Panel("Response length", ("response_length/mean",)),
        Panel("Responses cut short", ("response_length/clip_ratio",)),
    ),
    "Health": (
        Panel("Sampler against learner", ("logprob_mismatch/mean", "logprob_mismatch/max")),
        Panel("Weights behind", ("weights_version_lag",)),
        Panel("Groups lost, stale or played again", ("num_groups_dropped", "num_groups_stale", "num_groups_redone")),
        Panel("Engines replaced", ("num_engines_replaced",)),
        Panel("Alerts", ("num_alerts",)),
    ),
    "Speed": (
        Panel("Seconds", ("timing_s/sample", "timing_s/update", "timing_s/sync_weights", "timing_s/step")),
        Panel("Tokens per second", ("perf/tokens_per_s",)),
        Panel("Padding", ("padding_fraction",)),
    ),
    "Cold start": (
        Panel("Loss of the cold start", ("loss",), COLD_START),
        Panel("Legal moves, held out, in the cold start", ("evaluation/{mode}/legal_move_rate",), COLD_START),
        Panel("Whole boards, held out, in the cold start", ("evaluation/{mode}/perception_board",), COLD_START),
    ),
}
"""Sections of a dashboard, top to bottom."""
