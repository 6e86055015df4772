"""How weights travel from learners to engines, and which version they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
import torch
import torch.distributed as dist

from vlmgym.engine_placement import OBJECT_STORE
from vlmgym_policies.checksum import weights_checksum
from vlmgym_policies.engine import OfferedWeights
from vlmgym_policies.engines._vllm_sender import Receivers, WeightSender, make_sender, merge

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup

    from vlmgym_policies.vlm_module import VLMModule

_SENDER = "_vlmgym_weight_sender"
_SEND_TIMEOUTS = 4
"""A sender connects, waits until all are ready and broadcasts, each for at most `timeout_s`; and one to spare."""

logger = logging.getLogger(__name__)


class Push(NamedTuple):
    """What a push came to. version: updates the learners have made. errors: per engine, None where it serves."""

    version: int
    errors: list[Exception | None]


class WeightPush:
    """Gives engines the learners' current weights, by the transport that their placement allows.

    "object_store" sends the first learner's copy through Ray's object store, for any engine anywhere. "nccl" and "ipc"
    send from GPU to GPU while engines load (`vlmgym_policies.engines._vllm_sender`). All learners take part, so that a
    sharded module can gather. Each engine checks a sum over what it received.

    By "nccl" all engines depend on each other: a broadcast ends when all have it. None begins before all are ready. If
    one does not come, or is lost later, the learner and the engines that wait for it get an error after `timeout_s`, by
    making NCCL let go; they connect anew at the next push. Should a learner stay blocked in NCCL all the same, which
    may happen where a process ends while they connect, it is given up after several times `timeout_s`: RuntimeError.

    workers_per_engine: GPUs that share one engine's model. timeout_s: an engine that loads for longer is given up.
    """

    def __init__(
        self, learner_group: LearnerGroup, module_id: str, transport: str, workers_per_engine: int, timeout_s: float
    ) -> None:
        self._learner_group = learner_group
        self._module_id = module_id
        self._transport = transport
        self._workers_per_engine = workers_per_engine
        self._timeout_s = timeout_s
        self._members: list[Any] = []
        self._generation = 0

    def __call__(self, engines: Sequence[Any]) -> Push:
        """Raises: RuntimeError where a learner failed. What fails on an engine is returned."""
        if self._transport == OBJECT_STORE:
            return self._through_object_store(engines)
        return self._directly(engines)

    def _through_object_store(self, engines: Sequence[Any]) -> Push:
        module_id = self._module_id
        (put,) = [put for put in self._on_learners(lambda learner: _put_weights(learner, module_id)) if put]
        loads = [engine.load_weights.remote(put.reference[0], put.version, put.checksum) for engine in engines]
        return Push(put.version, load_outcomes(loads, self._timeout_s))

    def _directly(self, engines: Sequence[Any]) -> Push:
        if self._members != list(engines):
            self._members = list(engines)
            self._generation += 1
        to = Receivers(len(engines), self._workers_per_engine, self._generation)
        offer = partial(_offer, module_id=self._module_id, transport=self._transport, timeout_s=self._timeout_s, to=to)
        offered = self._on_learners(offer)
        version = offered[0].version
        offers = merge([part.offers for part in offered])
        loads = [engine.load_weights.remote(offer, version) for engine, offer in zip(engines, offers, strict=True)]
        failures = [failure for failure in self._on_learners(_send, _SEND_TIMEOUTS * self._timeout_s) if failure]
        errors = load_outcomes(loads, self._timeout_s)
        self._on_learners(_release)
        if failures or any(errors):
            self._members = []
        for failure in failures:
            logger.warning("weights were not sent: %s", failure)
        return Push(version, errors)

    def _on_learners(self, function: Callable[[Any], Any], timeout_s: float | None = None) -> list[Any]:
        results = list(self._learner_group.foreach_learner(function, timeout_seconds=timeout_s))
        num_learners = max(1, len(self._learner_group))
        if missing := num_learners - len(results):
            within = "" if timeout_s is None else f" within {timeout_s:g} s"
            raise RuntimeError(f"{missing} of {num_learners} learners did not give their weights{within}")
        for result in results:
            if not result.ok:
                raise RuntimeError(f"a learner failed to give its weights: {result.get()}")
        return [result.get() for result in results]


def load_outcomes(loads: Sequence[Any], timeout_s: float) -> list[Exception | None]:
    """What became of these `load_weights` calls: None, or what was raised, GetTimeoutError included."""
    ray.wait(list(loads), num_returns=len(loads), timeout=timeout_s)
    return [_outcome(load) for load in loads]


class _Put(NamedTuple):
    """reference: a one-element list, for Ray would resolve a bare reference on its way."""

    reference: list[Any]
    version: int
    checksum: int


def _put_weights(learner: Any, module_id: str) -> _Put | None:
    """The first learner's copy; None from the others."""
    first = _rank() == 0
    weights = _gathered(learner.module[module_id].unwrapped(), keep=first, device="cpu")
    return None if not first else _Put([ray.put(weights)], learner._weights_seq_no, weights_checksum(weights))


class _Offered(NamedTuple):
    """One learner's part. offers: per engine."""

    offers: list[OfferedWeights]
    version: int


def _offer(learner: Any, module_id: str, transport: str, timeout_s: float, to: Receivers) -> _Offered:
    module = learner.module[module_id].unwrapped()
    sender: WeightSender | None = getattr(learner, _SENDER, None)
    if sender is None:
        sender = make_sender(transport, module.model_config["path"], module.model_config["dtype"], timeout_s)
        setattr(learner, _SENDER, sender)
    weights = _gathered(module, keep=transport == "ipc" or _rank() == 0)
    return _Offered(sender.offer(weights, to, _rank()), learner._weights_seq_no)


def _gathered(module: VLMModule, *, keep: bool, device: str | None = None) -> dict[str, torch.Tensor]:
    """The policy's tensors in the engines' dtype; sharded ones are gathered, by all learners together.

    keep: whether this learner needs them. device: where copies of them go; None leaves them, and makes no copy of what
    needs none.
    """
    assert module.policy is not None, "learners hold the whole module"
    weights = {}
    for name, tensor in module.policy.weights():
        if keep:
            dtype = getattr(torch, module.model_config["dtype"]) if tensor.is_floating_point() else tensor.dtype
            weights[name] = tensor.to(device, dtype, copy=device is not None)
    return weights


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _send(learner: Any) -> str | None:
    """What went wrong, which is for engines to suffer: the learner itself is well."""
    try:
        getattr(learner, _SENDER).send()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _release(learner: Any) -> None:
    getattr(learner, _SENDER).release()


def _outcome(load: Any) -> Exception | None:
    try:
        ray.get(load, timeout=0)
    except Exception as error:
        return error
    return None
