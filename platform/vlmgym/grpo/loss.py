"""The GRPO loss as pure functions of per-token tensors [B, T]."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vlmgym.grpo.variants import Divergence, PolicyLoss


class Clip(NamedTuple):
    """Bounds of the ratio: 1 - low and 1 + high; dual, above 1, bounds it where the advantage is negative, too."""

    low: float
    high: float
    dual: float | None = None


class Responses(NamedTuple):
    """Which response each token belongs to, int64 [B, T] from 0 in every row, and which tokens count, bool [B, T]."""

    turns: torch.Tensor
    counted: torch.Tensor


class TokenLoss(NamedTuple):
    """Per-token terms, float32 [B, T]; `clipped` marks the tokens whose ratio, or gradient, the clip changed."""

    policy: torch.Tensor
    clipped: torch.Tensor
    ratio: torch.Tensor


def policy_loss(
    name: PolicyLoss,
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip: Clip,
    responses: Responses,
) -> TokenLoss:
    """The policy's term by its name; all tensors float32 [B, T]."""
    match name:
        case "clip":
            return clipped_surrogate(logprobs, old_logprobs, advantages, clip)
        case "gspo":
            return gspo(logprobs, old_logprobs, advantages, clip, responses)
        case "cispo":
            return cispo(logprobs, old_logprobs, advantages, clip)


def clipped_surrogate(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: Clip
) -> TokenLoss:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(logprobs - old_logprobs).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, per token. high above low is clip-higher: Yu et al. 2025
    (DAPO, arXiv 2503.14476), equation 10. With `dual`, -max(min(...), dual A) where A < 0: Ye et al. 2020 (dual clip,
    arXiv 1912.09729).
    """
    ratio = torch.exp(logprobs - old_logprobs)
    surrogate = ratio * advantages
    bounded = ratio.clamp(1.0 - clip.low, 1.0 + clip.high) * advantages
    objective = torch.minimum(surrogate, bounded)
    clipped = bounded < surrogate
    if clip.dual is not None:
        floor = clip.dual * advantages
        clipped = clipped | ((advantages < 0) & (objective < floor))
        objective = torch.where(advantages < 0, torch.maximum(objective, floor), objective)
    return TokenLoss(-objective, clipped.float(), ratio)


def gspo(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: Clip, responses: Responses
) -> TokenLoss:
    """The clipped surrogate with one ratio per response, exp of the mean of its tokens' log-ratios.

    Zheng et al. 2025 (GSPO, arXiv 2507.18071), equations 5 and 7. A "sequence" of the paper is a response here, also
    where one training sequence holds those of several turns.
    """
    return clipped_surrogate(
        _response_means(logprobs, responses), _response_means(old_logprobs, responses), advantages, clip
    )


def cispo(logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> TokenLoss:
    """-sg(clip(r, 1 - low, 1 + high)) A log pi: the clip bounds a token's weight and never takes its gradient.

    MiniMax 2025 (MiniMax-M1, arXiv 2506.13585); low = 1 is their "no lower bound".
    """
    ratio = torch.exp(logprobs - old_logprobs).detach()
    weight = ratio.clamp(1.0 - clip.low, 1.0 + clip.high)
    return TokenLoss(-weight * advantages * logprobs, (weight != ratio).float(), ratio)


def truncated_importance(logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, cap: float) -> torch.Tensor:
    """min(exp(logprobs - sampler_logprobs), cap) per token, without gradient: what sampled data weigh under the policy.

    Ionides 2008, "Truncated importance sampling"; per token as in Yao et al. 2025 on sampler-learner mismatch.
    """
    return torch.exp(logprobs.detach() - sampler_logprobs).clamp(max=cap)


def divergence(name: Divergence, logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(policy || reference) per token, with d = reference_logprobs - logprobs.

    k1 = -d, unbiased; k2 = d^2 / 2, whose gradient is that of the divergence; k3 = exp(d) - d - 1, unbiased and never
    negative. Schulman 2020, "Approximating KL divergence"; k3 is GRPO's, equation 4 (arXiv 2402.03300).
    """
    difference = reference_logprobs - logprobs
    match name:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.exp(difference) - difference - 1.0


def to_go(values: torch.Tensor, responses: Responses) -> torch.Tensor:
    """Of each token, the sum of `values` from it to the end of its response; float32 [B, T]."""
    counted = torch.where(responses.counted, values, 0.0)
    sums = _response_sums(counted, responses.turns)
    of_later_responses = _from_here_on(sums) - sums
    return _from_here_on(counted) - of_later_responses.gather(1, responses.turns)


def masked_sum(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens that count. Masked positions may hold anything finite."""
    return (values * weights).sum()


def _response_means(values: torch.Tensor, responses: Responses) -> torch.Tensor:
    """The mean over the tokens of its response, at each token."""
    sums = _response_sums(torch.where(responses.counted, values, 0.0), responses.turns)
    counts = _response_sums(responses.counted.float(), responses.turns)
    return (sums / counts.clamp(min=1.0)).gather(1, responses.turns)


def _response_sums(values: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """float32 [B, number of turns]."""
    num_turns = int(turns.max()) + 1
    return values.new_zeros(len(values), num_turns).scatter_add(1, turns, values)


def _from_here_on(values: torch.Tensor) -> torch.Tensor:
    return values.flip(1).cumsum(1).flip(1)
