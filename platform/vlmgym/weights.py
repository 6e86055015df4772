"""How weights travel from learners to engines, and which version an engine serves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
import torch.distributed as dist

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup

ATTEMPTS = 30
RETRY_S = 1.0


def push_weights(learner_group: LearnerGroup, module_id: str, engines: Sequence[Any]) -> int:
    """Gives every engine the learners' current weights; returns their version when all engines serve them.

    The version is the number of updates the learners have made. All learners take part, so that a sharded module can
    gather; the first one's copy goes through the object store. An engine that is being restarted is tried again.

    Raises:
        RuntimeError: a learner failed, or an engine stayed away.
    """
    results = list(learner_group.foreach_learner(lambda learner: _put_weights(learner, module_id)))
    for result in results:
        if not result.ok:
            raise RuntimeError(f"a learner failed to give its weights: {result.get()}")
    (pushed,) = [result.get() for result in results if result.get() is not None]
    loads = [(engine, engine.load_weights.remote(pushed.reference[0], pushed.version)) for engine in engines]
    for engine, load in loads:
        _confirm(engine, load, pushed)
    return pushed.version


class PushedWeights(NamedTuple):
    """reference: a one-element list, for Ray would resolve a bare reference on its way."""

    reference: list[Any]
    version: int


def _put_weights(learner: Any, module_id: str) -> PushedWeights | None:
    """The first learner's copy; None from the others."""
    weights = learner.module[module_id].unwrapped().weights()
    if dist.is_initialized() and dist.get_rank() > 0:
        return None
    return PushedWeights([ray.put(weights)], learner._weights_seq_no)


def _confirm(engine: Any, load: Any, pushed: PushedWeights) -> None:
    for _ in range(ATTEMPTS):
        try:
            ray.get(load)
            return
        except ray.exceptions.ActorUnavailableError:
            time.sleep(RETRY_S)
            load = engine.load_weights.remote(pushed.reference[0], pushed.version)
    raise RuntimeError(f"an engine took no weights in {ATTEMPTS} attempts")
