"""How good a branch was, measured against its siblings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6


def group_relative_advantages(returns: NDArray[np.float32]) -> NDArray[np.float32]:
    """GRPO: (R_i - mean R) / (std R + 1e-6) over one group; float32 [G] -> float32 [G].

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.2. The standard deviation is the sample one (G - 1),
    as G1 uses (arXiv 2505.13426). A group of equal returns has advantage 0 everywhere.
    """
    if len(returns) < 2:
        raise ValueError(f"a group needs at least 2 branches, got {len(returns)}")
    centred = returns - returns.mean()
    return (centred / (returns.std(ddof=1) + EPSILON)).astype(np.float32)
