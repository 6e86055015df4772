import math

import pytest
import torch

from vlmgym.grpo.loss import (
    Clip,
    Responses,
    cispo,
    clipped_surrogate,
    divergence,
    gspo,
    masked_sum,
    to_go,
    truncated_importance,
)

CLIP = Clip(0.2, 0.2)


def test_clipped_surrogate_by_hand():
    """Ratios 1.5, 0.5, 1.1 with advantages +2 and -2, clipped to 0.8..1.2.

    +2: min(3.0, 2.4), min(1.0, 1.6), min(2.2, 2.2); -2: min(-3.0, -2.4), min(-1.0, -1.6), min(-2.2, -2.2).
    """
    ratios = torch.tensor([[1.5, 0.5, 1.1]] * 2)
    old = torch.full((2, 3), -1.0)
    token = clipped_surrogate(old + ratios.log(), old, torch.tensor([[2.0], [-2.0]]), CLIP)
    torch.testing.assert_close(token.policy, torch.tensor([[-2.4, -1.0, -2.2], [3.0, 1.6, 2.2]]))
    torch.testing.assert_close(token.clipped, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(token.ratio, ratios)


def test_a_clipped_token_has_no_gradient():
    logprobs = torch.tensor([[math.log(1.5), math.log(1.1)]], requires_grad=True)
    clipped_surrogate(logprobs, torch.zeros(1, 2), torch.ones(1, 1), CLIP).policy.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, -1.1]]))


def test_clip_higher_leaves_more_room_above():
    """DAPO: ratio 1.25 is clipped to 1.2 by 0.2, and left alone by 0.28."""
    logprobs = torch.tensor([[math.log(1.25)]])
    losses = [clipped_surrogate(logprobs, torch.zeros(1, 1), torch.ones(1, 1), Clip(0.2, high)) for high in (0.2, 0.28)]
    torch.testing.assert_close(torch.cat([token.policy for token in losses]), torch.tensor([[-1.2], [-1.25]]))


def test_dual_clip_bounds_what_a_bad_token_costs():
    """Ratios 5 and 2, clip above 1.2, dual 3. A = -1: max(min(-5, -1.2), -3) = -3; min(-2, -1.2) = -2. A = 1: 1.2."""
    logprobs = torch.tensor([[5.0, 2.0, 5.0]]).log().requires_grad_()
    advantages = torch.tensor([[-1.0, -1.0, 1.0]])
    token = clipped_surrogate(logprobs, torch.zeros(1, 3), advantages, Clip(0.2, 0.2, dual=3.0))
    torch.testing.assert_close(token.policy, torch.tensor([[3.0, 2.0, -1.2]]))
    assert token.clipped.tolist() == [[1.0, 0.0, 1.0]]
    token.policy.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, 2.0, 0.0]]))


TWO_RESPONSES = Responses(
    turns=torch.tensor([[0, 0, 1, 1, 1, 0]]), counted=torch.tensor([[True, True, False, True, True, False]])
)
"""Two tokens, one in between that was not sampled, two tokens, and padding."""


def test_gspo_has_one_ratio_per_response():
    """Log-ratios ln 2 and ln 8 have the mean ln 4; ln 2 and -ln 2 the mean 0. What does not count has no part."""
    log_ratios = torch.tensor([[2.0, 8.0, 1000.0, 2.0, 0.5, 1000.0]]).log().requires_grad_()
    advantages = torch.tensor([[3.0, 3.0, 0.0, -1.0, -1.0, 0.0]])
    token = gspo(log_ratios, torch.zeros(1, 6), advantages, Clip(0.2, 9.0), TWO_RESPONSES)
    counted = TWO_RESPONSES.counted
    torch.testing.assert_close(token.ratio[counted], torch.tensor([4.0, 4.0, 1.0, 1.0]))
    torch.testing.assert_close(token.policy[counted], torch.tensor([-12.0, -12.0, 1.0, 1.0]))
    masked_sum(token.policy, counted.float()).backward()
    # d/d log-ratio of the sum over a response of -s A, with s = exp(mean): -s A for each of its tokens.
    torch.testing.assert_close(log_ratios.grad, torch.tensor([[-12.0, -12.0, 0.0, 1.0, 1.0, 0.0]]))


def test_cispo_by_hand():
    """-clip(r) A log pi with ratios 3, 0.1, 1 clipped to 0.5..2: weights 2, 0.5, 1; every token keeps its gradient."""
    logprobs = torch.full((1, 3), -2.0, requires_grad=True)
    old = -2.0 - torch.tensor([[3.0, 0.1, 1.0]]).log()
    token = cispo(logprobs, old, torch.tensor([[1.0, 1.0, -1.0]]), Clip(0.5, 1.0))
    torch.testing.assert_close(token.policy, torch.tensor([[4.0, 1.0, -2.0]]))
    assert token.clipped.tolist() == [[1.0, 1.0, 0.0]]
    token.policy.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-2.0, -0.5, 1.0]]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k1", [-0.6931, 0.6931, 0.0]),
        ("k2", [0.2402, 0.2402, 0.0]),  # (ln 2)^2 / 2
        ("k3", [0.3069, 0.1931, 0.0]),  # 2 - ln 2 - 1 and 0.5 + ln 2 - 1
    ],
)
def test_divergences_by_hand(name, expected):
    """The reference is twice as likely, half as likely, as likely."""
    logprobs = torch.tensor([-1.0, -1.0, -1.0])
    reference = logprobs + torch.tensor([math.log(2), -math.log(2), 0.0])
    torch.testing.assert_close(divergence(name, logprobs, reference), torch.tensor(expected), atol=1e-4, rtol=0)


def test_to_go_sums_to_the_end_of_a_response():
    """1 + 2, 2; then 4 + 5, 4 + 5, 5: what was not sampled adds nothing."""
    values = torch.tensor([[1.0, 2.0, 100.0, 4.0, 5.0, 100.0]])
    sums = to_go(values, TWO_RESPONSES)
    torch.testing.assert_close(sums[TWO_RESPONSES.counted], torch.tensor([3.0, 2.0, 9.0, 5.0]))


def test_masked_sum_ignores_what_does_not_count():
    assert masked_sum(torch.tensor([1.0, 100.0, 2.0]), torch.tensor([1.0, 0.0, 5.0])) == 11.0


def test_truncated_importance_by_hand():
    """Policy over sampler: 3 is capped to 2, 0.5 stays; and it carries no gradient."""
    logprobs = torch.tensor([math.log(0.6), math.log(0.1)], requires_grad=True)
    weights = truncated_importance(logprobs, torch.tensor([math.log(0.2), math.log(0.2)]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.5]))
    assert not weights.requires_grad
