"""How weights travel from learners to engines, and which version they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
import torch.distributed as dist

from vlmgym.engine_placement import OBJECT_STORE
from vlmgym_policies.checksum import weights_checksum

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup


class Push(NamedTuple):
    """What a push came to. version: updates the learners have made. errors: per engine, None where it serves."""

    version: int
    errors: list[Exception | None]


class WeightPush:
    """Gives engines the learners' current weights, by the transport that their placement allows.

    "object_store" sends the first learner's copy through Ray's object store, for any engine anywhere. "nccl" and "ipc"
    send from GPU to GPU while engines load (`vlmgym_policies.engines._vllm_sender`). All learners take part, so that a
    sharded module can gather. Each engine checks a sum over what it received.

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

    def __call__(self, engines: Sequence[Any]) -> Push:
        """Raises: RuntimeError where a learner failed. What fails on an engine is returned."""
        if self._transport == OBJECT_STORE:
            return self._through_object_store(engines)
        raise NotImplementedError(self._transport)

    def _through_object_store(self, engines: Sequence[Any]) -> Push:
        module_id = self._module_id
        (put,) = [put for put in self._on_learners(lambda learner: _put_weights(learner, module_id)) if put]
        loads = [engine.load_weights.remote(put.reference[0], put.version, put.checksum) for engine in engines]
        return Push(put.version, load_outcomes(loads, self._timeout_s))

    def _on_learners(self, function: Any) -> list[Any]:
        results = list(self._learner_group.foreach_learner(function))
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
    weights = learner.module[module_id].unwrapped().weights()
    if dist.is_initialized() and dist.get_rank() > 0:
        return None
    return _Put([ray.put(weights)], learner._weights_seq_no, weights_checksum(weights))


def _outcome(load: Any) -> Exception | None:
    try:
        ray.get(load, timeout=0)
    except Exception as error:
        return error
    return None
