"""The settings of what a batch of groups teaches: advantages, the policy's loss, the divergence from the start."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import NotProvided

from vlmgym.grpo.advantages import AdvantageRule
from vlmgym.grpo.loss import Clip
from vlmgym.grpo.rollout_config import RolloutConfig
from vlmgym.grpo.variants import Advantage, AverageOver, Credit, Divergence, KLPlace, PolicyLoss


class ObjectiveConfig(RolloutConfig):
    """The part of `GRPOConfig.training` that chooses variants; the defaults are those of G1."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.advantage: Advantage = "grpo"
        self.credit: Credit = "episode"
        self.step_weight = 0.0
        self.loss: PolicyLoss = "clip"
        self.average_over: AverageOver = "tokens"
        self.clip_low = 0.2
        self.clip_high = 0.2
        self.dual_clip: float | None = None
        self.importance_cap: float | None = None
        self.kl: Divergence = "k3"
        self.kl_in: KLPlace = "loss"
        self.kl_coeff = 0.01
        self.entropy_coeff = 0.0

    def training(
        self,
        *,
        advantage: Advantage = NotProvided,
        credit: Credit = NotProvided,
        step_weight: float = NotProvided,
        loss: PolicyLoss = NotProvided,
        average_over: AverageOver = NotProvided,
        clip_low: float = NotProvided,
        clip_high: float = NotProvided,
        dual_clip: float | None = NotProvided,
        importance_cap: float | None = NotProvided,
        kl: Divergence = NotProvided,
        kl_in: KLPlace = NotProvided,
        kl_coeff: float = NotProvided,
        entropy_coeff: float = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """The objective; docs/algorithms.md has the formulas. RLlib's `gamma` is the discount per turn.

        Args:
            advantage: how returns of siblings are compared.
            credit: "episode" gives every turn the advantage of the whole episode, "turn" that of what came from it on.
            step_weight: weight of the comparison among decisions taken in one state (GiGPO); 0 leaves it out.
            loss: the policy's term.
            average_over: what counts alike: "tokens", "responses", or tokens by 1 / `max_tokens` whatever the lengths.
            clip_low: lower clip of the ratio is 1 - clip_low; 1 is none.
            clip_high: upper clip of the ratio is 1 + clip_high.
            dual_clip: bound of the ratio where the advantage is negative; None is none.
            importance_cap: None takes the ratio to the sampler's log-probabilities, as in the paper; a number C takes
                the ratio to the learner's own before the update, and weighs each token by min(learner / sampler, C)
                (truncated importance sampling).
            kl: how the divergence from the start model is estimated.
            kl_in: "loss" adds it to the loss, "reward" takes it from what tokens earn.
            kl_coeff: its weight; 0 leaves the reference out.
            entropy_coeff: weight of the policy's entropy, which is added to what is maximised.
        """
        super().training(**kwargs)
        return self._set(
            advantage=advantage,
            credit=credit,
            step_weight=step_weight,
            loss=loss,
            average_over=average_over,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=dual_clip,
            importance_cap=importance_cap,
            kl=kl,
            kl_in=kl_in,
            kl_coeff=kl_coeff,
            entropy_coeff=entropy_coeff,
        )

    @property
    def advantage_rule(self) -> AdvantageRule:
        return AdvantageRule(self.advantage, self.credit, self.gamma, self.step_weight)

    @property
    def clip(self) -> Clip:
        return Clip(self.clip_low, self.clip_high, self.dual_clip)
