"""How a prompt and its sampling are handed to vLLM."""

import numpy as np
import pytest

from vlmgym_policies.engine import Sampling
from vlmgym_policies.engines._vllm_request import collapse, sampling_params


def test_one_placeholder_per_picture_is_left():
    assert collapse(np.array([1, 9, 9, 9, 2, 9, 3]), 9, 2) == [1, 9, 2, 9, 3]
    assert collapse(np.array([9, 9]), 9, 1) == [9]
    with pytest.raises(ValueError, match="must keep 2 images apart, got 1 runs"):
        collapse(np.array([1, 9, 9, 9, 2]), 9, 2)


@pytest.mark.parametrize("temperature", [0.001, 3.0])
def test_temperatures_that_vllm_would_change_are_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be 0 or in 0.01..2.0 for vLLM, got {temperature}"):
        sampling_params(Sampling(temperature=temperature), 0, None)
