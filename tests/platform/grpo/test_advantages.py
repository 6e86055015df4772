import numpy as np
import pytest

from vlmgym.grpo.advantages import group_relative_advantages


def test_by_hand():
    """Returns 2, 0, 0, 2: mean 1, sample std sqrt(4 / 3) = 1.1547; (2 - 1) / 1.1547 = 0.8660."""
    advantages = group_relative_advantages(np.array([2, 0, 0, 2], dtype=np.float32))
    np.testing.assert_allclose(advantages, [0.8660, -0.8660, -0.8660, 0.8660], atol=1e-4)
    assert advantages.dtype == np.float32


def test_equal_returns_teach_nothing():
    np.testing.assert_array_equal(group_relative_advantages(np.full(5, 0.7, dtype=np.float32)), np.zeros(5))


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 branches, got 1"):
        group_relative_advantages(np.zeros(1, dtype=np.float32))
