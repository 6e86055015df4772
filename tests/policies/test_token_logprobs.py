"""Log-probabilities and entropies by chunks of the vocabulary, against the plain computation."""

from collections.abc import Callable
from math import log
from weakref import WeakSet

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlmgym_policies.token_logprobs import TokenLogprobs, token_logprobs

NUM_TOKENS, HIDDEN, VOCABULARY = 7, 16, 50


class PeakMemory(TorchDispatchMode):
    """Most bytes of tensors that were made inside and lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: WeakSet[torch.UntypedStorage] = WeakSet()
        self.peak_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.alive.add(leaf.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, sum(storage.nbytes() for storage in self.alive))
        return result


def plain(hidden, weight, targets, *, banned, temperature) -> TokenLogprobs:
    logits = hidden @ weight.T / temperature
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    logprobs = torch.log_softmax(logits.masked_fill(banned, float("-inf")), dim=-1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(banned, 0.0)).sum(-1)
    return TokenLogprobs(logprobs.gather(-1, targets[:, None]).squeeze(-1), entropy)


def draw(num_tokens: int = NUM_TOKENS, vocabulary: int = VOCABULARY, scale: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(num_tokens, HIDDEN, generator=generator)
    weight = torch.randn(vocabulary, HIDDEN, generator=generator)
    targets = torch.randint(0, vocabulary - 8, (num_tokens,), generator=generator)
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    banned[-8:] = True
    return hidden.requires_grad_(), weight.requires_grad_(), targets, banned


def gradients(function: Callable[..., TokenLogprobs], hidden, weight, targets, **options):
    """Values, and the gradients of a sum that weighs every log-probability and entropy differently."""
    result = function(hidden, weight, targets, **options)
    weights = torch.linspace(-1.0, 2.0, len(targets))
    (weights * result.logprobs + weights.flip(0) * result.entropy).sum().backward()
    values = (result.logprobs.detach(), result.entropy.detach(), hidden.grad, weight.grad)
    hidden.grad = weight.grad = None
    return values


@pytest.mark.parametrize("chunk", [1, 7, 8, 49, VOCABULARY])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_are_as_exact_as_the_plain_computation(chunk: int, scale: float, temperature: float) -> None:
    """Both in float32, held against float64."""
    hidden, weight, targets, banned = draw(scale=scale)
    options = {"banned": banned, "temperature": temperature}
    exact = gradients(
        plain, hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), targets, **options
    )
    expected = gradients(plain, hidden, weight, targets, **options)
    found = gradients(token_logprobs, hidden, weight, targets, **options, chunk_logits=chunk * NUM_TOKENS)
    for value, other, truth in zip(found, expected, exact, strict=True):
        allowed = 3.0 * (other - truth).abs().max() + 1e-6 * truth.abs().max()
        assert (value - truth).abs().max() <= allowed


def test_by_hand() -> None:
    """Logits 0, log 3 and a banned one: probabilities 1/4, 3/4, 0."""
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [log(3.0)], [5.0]])
    banned = torch.tensor([False, False, True])
    for chunk_logits in (2, 6):
        found = token_logprobs(
            hidden, weight, torch.tensor([0, 1]), banned=banned, temperature=1.0, chunk_logits=chunk_logits
        )
        torch.testing.assert_close(found.logprobs, torch.tensor([0.25, 0.75]).log())
        torch.testing.assert_close(found.entropy, torch.full((2,), -0.25 * log(0.25) - 0.75 * log(0.75)))


@pytest.mark.parametrize("chunk", [8, VOCABULARY])
def test_a_banned_target_times_weight_zero_is_zero(chunk: int) -> None:
    hidden, weight, targets, banned = draw()
    targets[2] = VOCABULARY - 1
    found = token_logprobs(hidden, weight, targets, banned=banned, temperature=1.0, chunk_logits=chunk * NUM_TOKENS)
    assert found.logprobs[2] < -1e29
    (found.logprobs * (targets < VOCABULARY - 8)).sum().backward()
    assert hidden.grad[2].abs().max() == 0.0 and weight.grad.isfinite().all()


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden, weight, targets, banned = draw()
    token_logprobs(
        hidden, weight.requires_grad_(False), targets, banned=banned, temperature=1.0, chunk_logits=70
    ).logprobs.sum().backward()
    assert weight.grad is None and hidden.grad is not None


def test_bfloat16_products_are_those_of_the_plain_computation() -> None:
    hidden, weight, targets, banned = draw()
    hidden, weight = (tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight))
    options = {"banned": banned, "temperature": 1.0}
    expected = gradients(plain, hidden, weight, targets, **options)
    found = gradients(token_logprobs, hidden, weight, targets, **options, chunk_logits=8 * NUM_TOKENS)
    for value, other, tolerance in zip(found, expected, (1e-5, 1e-5, 2e-2, 2e-2), strict=True):
        assert value.dtype == other.dtype
        torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance)


def test_memory_does_not_grow_with_the_vocabulary_times_the_tokens() -> None:
    """512 tokens, 16384 words: all logits are 32 MiB. Gradients of the inputs, 1 MiB, are in both figures."""
    hidden, weight, targets, banned = draw(512, 16384)
    all_logits_bytes = 4 * 512 * 16384
    options = {"banned": banned, "temperature": 1.0}
    peaks = {}
    for name, function, more in [("plain", plain, {}), ("chunks", token_logprobs, {"chunk_logits": 512 * 512})]:
        with PeakMemory() as memory:
            gradients(function, hidden, weight, targets, **options, **more)
        peaks[name] = memory.peak_bytes / all_logits_bytes
    assert peaks["plain"] > 3.0
    assert peaks["chunks"] < 0.25
