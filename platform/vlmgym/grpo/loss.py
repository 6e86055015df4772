"""The GRPO loss as pure functions of per-token tensors [B, T]."""

from __future__ import annotations

from typing import NamedTuple

import torch


class TokenLoss(NamedTuple):
    """Per-token terms, float32 [B, T]; `clipped` marks the tokens whose gradient the clip removed."""

    policy: torch.Tensor
    clipped: torch.Tensor
    ratio: torch.Tensor


def clipped_surrogate(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> TokenLoss:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(logprobs - old_logprobs); advantages [B, 1].

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, per token.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = ratio * advantages
    bounded = ratio.clamp(1.0 - low, 1.0 + high) * advantages
    return TokenLoss(-torch.minimum(unclipped, bounded), (bounded < unclipped).float(), ratio)


def truncated_importance(logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, cap: float) -> torch.Tensor:
    """min(exp(logprobs - sampler_logprobs), cap) per token, without gradient: what sampled data weigh under the policy.

    Ionides 2008, "Truncated importance sampling"; per token as in Yao et al. 2025 on sampler-learner mismatch.
    """
    return torch.exp(logprobs.detach() - sampler_logprobs).clamp(max=cap)


def k3_divergence(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = reference_logprobs - logprobs: an unbiased estimate of KL(policy || reference) per token.

    Schulman 2020, "Approximating KL divergence", estimator k3; GRPO's equation 4 (arXiv 2402.03300).
    """
    difference = reference_logprobs - logprobs
    return torch.exp(difference) - difference - 1.0


def masked_sum(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens that count. Masked positions may hold anything finite."""
    return (values * weights).sum()
