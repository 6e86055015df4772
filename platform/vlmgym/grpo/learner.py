"""The update: one optimizer step from all sequences of a batch, the same on any number of learners."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ray.rllib.policy.sample_batch import MultiAgentBatch

from vlmgym.grpo.advantages import NORMALISED_OVER_BATCH, normalise_by_game
from vlmgym.grpo.batching import SEQUENCES, MicroBatch, collate
from vlmgym.grpo.loss import Responses, divergence, masked_sum, policy_loss, to_go, truncated_importance
from vlmgym.grpo.micro_batches import padding_fraction, plan_micro_batches, with_at_least
from vlmgym.grpo.parallel import over_learners
from vlmgym.grpo.pictures import with_picture
from vlmgym.grpo.saving import SavingLearner
from vlmgym.grpo.sequences import TrainSequence, without_mismatch
from vlmgym.grpo.vlm_learner import vlm
from vlmgym_policies.vlm_module import ENTROPY, LOGPROBS, REFERENCE_LOGPROBS

_LOSSES = ("loss", "policy_loss")
"""Terms that are logged as they are minimised; others as weighted means."""


class GRPOLearner(SavingLearner):
    """Trains `VLMModule`s from object arrays of `TrainSequence`s, collated here one micro-batch at a time."""

    _totals: dict[str, torch.Tensor]
    _worst_mismatch: torch.Tensor

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: MicroBatch, fwd_out: Any) -> torch.Tensor:
        """The policy's term, the divergence from the start model and the entropy, summed over the tokens that count."""
        weights, advantages = batch.weights, batch.advantages
        responses = Responses(batch.turns, weights > 0)
        logprobs = _counted(fwd_out[LOGPROBS], responses)
        old_logprobs = sampler_logprobs = _counted(batch.old_logprobs, responses)
        importance = torch.ones_like(weights)
        if config.importance_cap is not None:
            importance = truncated_importance(logprobs, sampler_logprobs, config.importance_cap)
            old_logprobs = logprobs.detach()
        kl = torch.zeros_like(weights)
        if REFERENCE_LOGPROBS in fwd_out:
            kl = divergence(config.kl, logprobs, _counted(fwd_out[REFERENCE_LOGPROBS], responses))
            self._add("kl", masked_sum(kl, weights))
        if config.kl_in == "reward":
            advantages = advantages - config.kl_coeff * to_go(kl.detach(), responses)
        token = policy_loss(config.loss, logprobs, old_logprobs, advantages, config.clip, responses)
        loss = masked_sum(importance * token.policy, weights)
        self._add("policy_loss", loss)
        if config.kl_in == "loss":
            loss = loss + config.kl_coeff * masked_sum(kl, weights)
        entropy = masked_sum(fwd_out[ENTROPY], weights)
        if config.entropy_coeff:
            loss = loss - config.entropy_coeff * entropy
        mismatch = (logprobs.detach() - sampler_logprobs).abs()
        self._add("loss", loss)
        self._add("entropy", entropy)
        self._add("clip_fraction", masked_sum(token.clipped, weights))
        self._add("ratio", masked_sum(token.ratio, weights))
        self._add("logprob_mismatch", masked_sum(mismatch, weights))
        self._worst_mismatch = torch.maximum(self._worst_mismatch, mismatch.max())
        return loss

    def _convert_batch_type(self, batch: MultiAgentBatch, *args: Any, **kwargs: Any) -> MultiAgentBatch:
        """Leaves the records alone; RLlib would look for arrays to move to the device."""
        return batch

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, torch.Tensor], Any]:
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        losses = {mid: self._accumulate(mid, list(columns[SEQUENCES])) for mid, columns in batch.items()}
        self._is_finite = all(bool(torch.isfinite(loss)) for loss in losses.values())
        gradients = {ref: p.grad for ref, p in self._params.items() if p.grad is not None}
        self.apply_gradients(self.postprocess_gradients(gradients))
        return {}, losses, {}

    def _accumulate(self, module_id: str, given: Sequence[TrainSequence]) -> torch.Tensor:
        """Backward passes of all micro-batches; gradients add up to those of one batch over all learners.

        Every learner runs the same number of rounds, hence of collectives; one that has fewer micro-batches cuts them
        smaller, and where it has not as many sequences repeats its last with weight zero. Where nothing counts on any
        learner, the loss is 0 / 0, no number, and the step is skipped.
        """
        module = self.module[module_id]
        processor, to_inputs = vlm(module).processor, vlm(module).training_inputs
        assert processor is not None and to_inputs is not None, "learners hold the whole module"
        records = [without_mismatch(record, processor) for record in given]
        num_mismatches = sum(new is not old for new, old in zip(records, given, strict=True))
        self.metrics.log_value((module_id, "num_image_mismatches"), num_mismatches, reduce="sum")
        config = self.config.get_config_for_module(module_id)
        if config.advantage in NORMALISED_OVER_BATCH:
            records = self._normalised(records)
        plan = plan_micro_batches([record.num_tokens for record in records], config.micro_batch_tokens)
        total_weight = self._sum_over_learners(sum(float(record.weights.sum()) for record in records))
        denominator = self._sum_over_learners(sum(record.denominator for record in records))
        num_rounds = int(self._over_learners(len(plan), dist.ReduceOp.MAX))
        plan = with_at_least(plan, num_rounds)
        self._totals = {}
        self._worst_mismatch = torch.zeros((), device=self._device)
        for turn in range(num_rounds):
            rows = [records[i] for i in plan[min(turn, len(plan) - 1)]]
            micro = collate(with_picture(rows, processor), to_inputs, self._device)
            if turn >= len(plan):
                micro = micro._replace(weights=torch.zeros_like(micro.weights))
            with _synchronising_only(module, last=turn == num_rounds - 1):
                outputs = self.module.forward_train({module_id: micro.inputs})
                loss = self.compute_losses(fwd_out=outputs, batch={module_id: micro})[module_id]
                (loss * _world_size() / denominator).backward()
        return self._log_update(module_id, total_weight, denominator, records, plan)

    def _add(self, term: str, value: torch.Tensor) -> None:
        """Adds a micro-batch's sum over tokens to a metric of this update, without waiting for the device."""
        self._totals[term] = value.detach().double() + self._totals.get(term, 0.0)

    def _normalised(self, records: Sequence[TrainSequence]) -> list[TrainSequence]:
        """Their advantages on the scale of their game in the whole batch, the parts of other learners included."""
        advantages = normalise_by_game(
            [record.advantages for record in records],
            [record.weights > 0 for record in records],
            [record.game for record in records],
            self.config.num_games,
            self._sum_over_learners,
        )
        return [record._replace(advantages=new) for record, new in zip(records, advantages, strict=True)]

    def _log_update(
        self,
        module_id: str,
        total_weight: float,
        denominator: float,
        records: Sequence[TrainSequence],
        plan: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """Logs weighted means over all learners' tokens, the loss as it was minimised, and what this learner's shard
        cost; returns the loss.
        """
        names = sorted(self._totals)
        sums = torch.stack([self._totals[name] for name in names])
        if dist.is_initialized():
            dist.all_reduce(sums)
        divisors = torch.tensor(
            [denominator if name in _LOSSES else total_weight for name in names], dtype=torch.float64
        )
        means = dict(zip(names, (sums.cpu() / divisors).tolist(), strict=True))
        worst = self._over_learners(float(self._worst_mismatch), dist.ReduceOp.MAX)
        lengths = [record.num_tokens for record in records]
        self.metrics.log_dict({**means, "logprob_mismatch_max": worst}, key=module_id, window=1)
        self.metrics.log_dict({"padding_fraction": padding_fraction(lengths, plan)}, key=module_id, window=1)
        self.metrics.log_dict({"num_tokens": sum(lengths), "num_sequences": len(records)}, key=module_id, reduce="sum")
        return torch.tensor(means["loss"])

    def _sum_over_learners(self, value: float) -> float:
        return self._over_learners(value, dist.ReduceOp.SUM)

    def _over_learners(self, value: float, operation: Any) -> float:
        return over_learners(value, operation, self._device)


def _counted(logprobs: torch.Tensor, responses: Responses) -> torch.Tensor:
    """0 for tokens that do not count: a placeholder between two turns has none that is finite, as it is never drawn."""
    return torch.where(responses.counted, logprobs, 0.0)


def _world_size() -> int:
    """DDP averages gradients over learners; a sum over all of them needs this factor."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def _synchronising_only(module: Any, *, last: bool) -> Iterator[None]:
    """DDP exchanges gradients in the last micro-batch only."""
    with contextlib.nullcontext() if last or not hasattr(module, "no_sync") else module.no_sync():
        yield
