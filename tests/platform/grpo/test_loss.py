import math

import torch

from vlmgym.grpo.loss import clipped_surrogate, k3_divergence, masked_sum, truncated_importance


def test_clipped_surrogate_by_hand():
    """Ratios 1.5, 0.5, 1.1 with advantages +2 and -2, clipped to 0.8..1.2.

    +2: min(3.0, 2.4), min(1.0, 1.6), min(2.2, 2.2); -2: min(-3.0, -2.4), min(-1.0, -1.6), min(-2.2, -2.2).
    """
    ratios = torch.tensor([[1.5, 0.5, 1.1]] * 2)
    old = torch.full((2, 3), -1.0)
    token = clipped_surrogate(old + ratios.log(), old, torch.tensor([[2.0], [-2.0]]), low=0.2, high=0.2)
    torch.testing.assert_close(token.policy, torch.tensor([[-2.4, -1.0, -2.2], [3.0, 1.6, 2.2]]))
    torch.testing.assert_close(token.clipped, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(token.ratio, ratios)


def test_a_clipped_token_has_no_gradient():
    logprobs = torch.tensor([[math.log(1.5), math.log(1.1)]], requires_grad=True)
    clipped_surrogate(logprobs, torch.zeros(1, 2), torch.ones(1, 1), 0.2, 0.2).policy.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, -1.1]]))


def test_k3_by_hand():
    """d = ln 2: 2 - ln 2 - 1 = 0.3069; d = -ln 2: 0.5 + ln 2 - 1 = 0.1931; equal: 0."""
    logprobs = torch.tensor([-1.0, -1.0, -1.0])
    reference = logprobs + torch.tensor([math.log(2), -math.log(2), 0.0])
    torch.testing.assert_close(
        k3_divergence(logprobs, reference), torch.tensor([0.3069, 0.1931, 0.0]), atol=1e-4, rtol=0
    )


def test_masked_sum_ignores_what_does_not_count():
    assert masked_sum(torch.tensor([1.0, 100.0, 2.0]), torch.tensor([1.0, 0.0, 5.0])) == 11.0


def test_truncated_importance_by_hand():
    """Policy over sampler: 3 is capped to 2, 0.5 stays; and it carries no gradient."""
    logprobs = torch.tensor([math.log(0.6), math.log(0.1)], requires_grad=True)
    weights = truncated_importance(logprobs, torch.tensor([math.log(0.2), math.log(0.2)]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.5]))
    assert not weights.requires_grad
