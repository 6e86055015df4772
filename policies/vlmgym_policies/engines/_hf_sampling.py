"""How a token is drawn: the inverse of the distribution's cumulative sum at a given random number, or its argmax."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Draw(NamedTuple):
    """token_ids: int64 [B]. logprobs: float32 [B], of each token under the distribution it was drawn from."""

    token_ids: torch.Tensor
    logprobs: torch.Tensor


def draw(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor, banned_token_ids: torch.Tensor
) -> Draw:
    """One token per row.

    logits: [B, V]. temperatures: float32 [B]; 0 takes the argmax, whose log-probability is that at temperature 1.
    uniforms: float64 [B] in [0, 1); each alone decides its row. banned_token_ids: int64, removed from every row.
    """
    scores = logits.float().index_fill(1, banned_token_ids, float("-inf"))
    greedy = temperatures == 0
    logprobs = torch.log_softmax(scores / torch.where(greedy, 1.0, temperatures)[:, None], dim=-1)
    mass = logprobs.double().exp_().cumsum(dim=-1)
    drawn = torch.searchsorted(mass, uniforms[:, None] * mass[:, -1:], right=True)
    token_ids = torch.where(greedy[:, None], scores.argmax(dim=-1, keepdim=True), drawn)
    return Draw(token_ids.squeeze(1), logprobs.gather(1, token_ids).squeeze(1))
