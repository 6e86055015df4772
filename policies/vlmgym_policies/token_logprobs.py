"""Log-probabilities of given tokens under a model's output layer, without ever holding all logits of all tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

CHUNK_LOGITS = 2**25
"""Logits that exist at once: 128 MiB in float32. While a chunk is worked on, some three arrays of that size live."""

_BANNED_LOGIT = -1e30
"""Stands for minus infinity; finite, so that what a banned token would have cost times weight 0 is 0, and not NaN."""


class TokenLogprobs(NamedTuple):
    """logprobs: of the targets. entropy: of the distribution that each was drawn from, in nats. Both float32 [N]."""

    logprobs: torch.Tensor
    entropy: torch.Tensor


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    banned: torch.Tensor,
    temperature: float,
    chunk_logits: int = CHUNK_LOGITS,
) -> TokenLogprobs:
    """What log_softmax(hidden @ weight.T / temperature), banned tokens left out, says of `targets`. Differentiable.

    hidden [N, H], states before the output layer; weight [V, H], that layer's; targets int64 [N]; banned bool [V].
    Products are made in the dtype of `hidden`, everything after them in float32.

    The vocabulary is cut into chunks of about `chunk_logits` / N words, with a running maximum and running sums
    (Milakov and Gimelshein 2018, arXiv 1805.02867), and the backward pass makes each chunk of logits again. A chunk
    holds all tokens, so each row of the weight's gradient is one product, and is not rounded once per chunk. Where one
    chunk is the whole vocabulary it is kept instead, which is faster.
    """
    chunk = min(len(weight), max(1, chunk_logits // max(1, len(hidden))))
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, targets, banned, temperature, chunk)  # type: ignore[no-untyped-call]
    return TokenLogprobs(logprobs, entropy)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        banned: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        top = torch.full(targets.shape, _BANNED_LOGIT, dtype=torch.float32, device=hidden.device)
        total, moment, chosen = torch.zeros_like(top), torch.zeros_like(top), torch.zeros_like(top)
        for words in _chunks(len(weight), chunk):
            logits = _logits(hidden, weight, banned, temperature, words)
            rows, columns = _inside(targets, words)
            chosen[rows] = logits[rows, columns]
            new_top = torch.maximum(top, logits.amax(-1))
            scale = torch.exp(top - new_top)
            shifted = logits.sub_(new_top[:, None])
            odds = shifted.exp()
            moment = scale * (moment + (top - new_top) * total) + (odds * shifted).sum(-1)
            total = scale * total + odds.sum(-1)
            top = new_top
        log_total = total.log()
        normaliser = top + log_total
        logprobs, entropy = chosen - normaliser, log_total - moment / total
        kept = shifted.sub_(log_total[:, None]) if chunk == len(weight) and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden, weight, targets, banned, normaliser, entropy, kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        hidden, weight, targets, banned, normaliser, entropy, kept = ctx.saved_tensors
        of_logprobs, of_entropy = gradients
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(normaliser)
        of_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for words in _chunks(len(weight), ctx.chunk):
            all_logprobs = kept
            if all_logprobs is None:
                all_logprobs = _logits(hidden, weight, banned, ctx.temperature, words).sub_(normaliser[:, None])
            of_logits = _of_logits(all_logprobs, of_logprobs, of_entropy, entropy)
            rows, columns = _inside(targets, words)
            of_logits[rows, columns] += of_logprobs[rows]
            of_logits = of_logits.div_(ctx.temperature).to(hidden.dtype)
            of_hidden += of_logits @ weight[words]
            if of_weight is not None:
                torch.mm(of_logits.T, hidden, out=of_weight[words])
        return of_hidden.to(hidden.dtype), of_weight, None, None, None, None


def _chunks(num_words: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, num_words)) for start in range(0, num_words, chunk)]


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, banned: torch.Tensor, temperature: float, words: slice
) -> torch.Tensor:
    """float32 [N, words]."""
    logits = (hidden @ weight[words].T).float()
    return logits.div_(temperature).masked_fill_(banned[words], _BANNED_LOGIT)


def _inside(targets: torch.Tensor, words: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens have their target in this chunk, and in which of its columns."""
    rows = ((targets >= words.start) & (targets < words.stop)).nonzero().squeeze(-1)
    return rows, targets[rows] - words.start


def _of_logits(
    all_logprobs: torch.Tensor, of_logprobs: torch.Tensor, of_entropy: torch.Tensor | None, entropy: torch.Tensor
) -> torch.Tensor:
    """Gradient by logit, less that of the target itself: -p g - p (log p + H) g', of log-probability and entropy H."""
    factor = of_logprobs[:, None]
    if of_entropy is not None:
        factor = factor + of_entropy[:, None] * (all_logprobs + entropy[:, None])
    return all_logprobs.exp().mul_(factor).neg_()
