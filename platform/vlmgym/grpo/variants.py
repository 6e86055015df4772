"""Which variants of the algorithm a job or a config may name; docs/algorithms.md has their formulas."""

from __future__ import annotations

from typing import Literal

Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"]
"""What the returns of siblings make of a return; each is a function of `advantages.py`."""

Credit = Literal["episode", "turn"]
"""Whether a decision answers for the whole episode, or for what came from its turn on."""

PolicyLoss = Literal["clip", "gspo", "cispo"]
"""The policy's term of the loss; each is a function of `loss.py`."""

AverageOver = Literal["tokens", "responses", "max_tokens"]
"""Whether all tokens count alike, all responses do, or all tokens do by a number that no length enters."""

Divergence = Literal["k1", "k2", "k3"]
"""Estimators of the KL divergence from the start model."""

KLPlace = Literal["loss", "reward"]
"""Whether the divergence is a term of the loss, or taken from what tokens earn."""

Success = Literal["progress", "legal", "solved"]
"""What counts as a success where a curriculum moves: a move that the game rewards, one that it accepts, a game won."""
