"""How good a decision was, measured against its siblings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmgym.grpo.variants import Advantage, Credit

EPSILON = 1e-6
Floats = NDArray[np.float32]


class AdvantageRule(NamedTuple):
    """name: how returns are compared. credit: what a decision answers for. gamma: discount per turn.

    step_weight: how much the comparison within one state adds; 0 leaves it out.
    """

    name: Advantage = "grpo"
    credit: Credit = "episode"
    gamma: float = 1.0
    step_weight: float = 0.0


def decision_advantages(
    rewards: Sequence[Floats], states: Sequence[Sequence[Hashable]], rule: AdvantageRule
) -> list[Floats]:
    """Advantages of one group's decisions: per branch float32 [T_i], as its rewards are and the states it decided in.

    Credit "episode" compares the sums of all rewards, as GRPO and its kin do; every turn of a branch has the same.
    Credit "turn" compares sum_k gamma^k r_(t+k), what a branch earned from turn t on, among the branches that have a
    turn t. To either, `step_weight` adds the comparison of the same discounted sums among all decisions of the group
    that were taken in one state: GiGPO's step-level groups (Feng et al. 2025, arXiv 2505.10978).
    The paper groups equal observations; here equal states, so that what may follow is the same, too.

    Raises:
        ValueError: a group of one branch, where the rule compares branches.
    """
    if len(rewards) < 2 and rule.name != "reinforce_pp":
        raise ValueError(f"a group needs at least 2 branches, got {len(rewards)}")
    compare = ADVANTAGES[rule.name]
    ends = np.cumsum([len(turns) for turns in rewards])[:-1]
    to_go = np.concatenate([_returns_to_go(turns, rule.gamma) for turns in rewards])
    if rule.credit == "episode":
        totals = compare(np.array([turns.sum() for turns in rewards], dtype=np.float32))
        advantages = np.repeat(totals, [len(turns) for turns in rewards])
    else:
        advantages = _among([turn for turns in rewards for turn in range(len(turns))], to_go, compare)
    if rule.step_weight:
        keys = [state for branch in states for state in branch]
        advantages = advantages + np.float32(rule.step_weight) * _among(keys, to_go, compare)
    return np.split(advantages, ends)


def grpo(returns: Floats) -> Floats:
    """(R_i - mean R) / (std R + 1e-6); float32 [G] -> float32 [G].

    Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.2. The standard deviation is the sample one (G - 1),
    as G1 uses (arXiv 2505.13426). Equal returns, and one alone, have advantage 0.
    """
    centred = dr_grpo(returns)
    return centred / (returns.std(ddof=1) + np.float32(EPSILON)) if len(returns) > 1 else centred


def dr_grpo(returns: Floats) -> Floats:
    """R_i - mean R. Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783), section 3.1: GRPO's without its division by std."""
    return returns - returns.mean()


def rloo(returns: Floats) -> Floats:
    """R_i - mean of the others. Ahmadian et al. 2024 (RLOO, arXiv 2402.14740): leave one out."""
    num = len(returns)
    return dr_grpo(returns) * np.float32(num / (num - 1)) if num > 1 else np.zeros_like(returns)


def reinforce_pp(returns: Floats) -> Floats:
    """R_i itself, for `normalise_over_batch`. Hu et al. 2025 (REINFORCE++, arXiv 2501.03262): no group is needed."""
    return returns


def reinforce_pp_baseline(returns: Floats) -> Floats:
    """R_i - mean R, for `normalise_over_batch`. Hu et al. 2025 (arXiv 2501.03262), the variant with baseline."""
    return dr_grpo(returns)


ADVANTAGES: dict[Advantage, Callable[[Floats], Floats]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
}
NORMALISED_OVER_BATCH: frozenset[Advantage] = frozenset({"reinforce_pp", "reinforce_pp_baseline"})


def normalise_over_batch(
    advantages: Sequence[Floats], sampled: Sequence[NDArray[np.bool_]], add_up: Callable[[float], float]
) -> list[Floats]:
    """(A - mean A) / (std A + 1e-6) over the sampled tokens of a whole batch.

    Hu et al. 2025 (REINFORCE++, arXiv 2501.03262), global advantage normalisation. advantages float32 [R] and
    sampled [R] per sequence; tokens that were not sampled keep what they have. add_up(x): the sum of x over all
    learners, each of which holds a part of the batch.
    """
    counted = [values[mask].astype(np.float64) for values, mask in zip(advantages, sampled, strict=True)]
    num = add_up(sum(len(values) for values in counted))
    mean = add_up(sum(values.sum() for values in counted)) / max(num, 1)
    variance = add_up(sum(((values - mean) ** 2).sum() for values in counted)) / max(num, 1)
    scale = variance**0.5 + EPSILON
    pairs = zip(advantages, sampled, strict=True)
    return [np.where(mask, (values - mean) / scale, values).astype(np.float32) for values, mask in pairs]


def normalise_by_game(
    advantages: Sequence[Floats],
    sampled: Sequence[NDArray[np.bool_]],
    games: Sequence[int],
    num_games: int,
    add_up: Callable[[float], float],
) -> list[Floats]:
    """`normalise_over_batch` within each game. games: of each sequence, its number in the mixture, below `num_games`.

    Departure from REINFORCE++, which knows one task: games whose rewards differ in size would set each other's mean and
    scale. Every learner adds up for every game, also for one that it holds nothing of: the others wait for it.
    """
    normalised = list(advantages)
    for game in range(num_games):
        places = [place for place, of in enumerate(games) if of == game]
        of_game = [advantages[place] for place in places]
        new = normalise_over_batch(of_game, [sampled[place] for place in places], add_up)
        for place, values in zip(places, new, strict=True):
            normalised[place] = values
    return normalised


def _returns_to_go(rewards: Floats, gamma: float) -> Floats:
    """sum_k gamma^k r_(t+k) for each t; float32 [T].

    >>> _returns_to_go(np.array([1, 0, 4], dtype=np.float32), 0.5).tolist()
    [2.0, 2.0, 4.0]
    """
    returns = np.zeros_like(rewards)
    later = np.float32(0.0)
    for turn in reversed(range(len(rewards))):
        returns[turn] = later = rewards[turn] + np.float32(gamma) * later
    return returns


def _among(keys: Sequence[Hashable], values: Floats, compare: Callable[[Floats], Floats]) -> Floats:
    """Compares each value with those that have the same key."""
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    advantages = np.zeros_like(values)
    for indices in members.values():
        advantages[indices] = compare(values[indices])
    return advantages
