"""How learners save their state while they go on learning: each copies its part at once, and a thread writes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow.fs as pafs
import torch
import torch.distributed as dist
from ray import cloudpickle
from ray.rllib.core import COMPONENT_METRICS_LOGGER, COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE

from vlmgym.grpo.learner_tensors import by_module, learner_tensors, make_room, weights_in
from vlmgym.grpo.parallel import over_learners
from vlmgym.grpo.shard_files import kept_tensors, read_shards, write_shards
from vlmgym.grpo.vlm_learner import VLMLearner
from vlmgym.storage import Storage

SHARDS = "shards"
_GROUPS = "optimizer_groups"


class SavingLearner(VLMLearner):
    """A learner with `save_to_path` in two halves. All learners of a group are asked for both.

    Those that shard write their shards each; of others the first writes. The first one then writes RLlib's files, and
    the model directory, whose weights it reads from the shards: nothing is gathered between learners.
    """

    _writer: ThreadPoolExecutor | None = None
    _writing: Future[None] | None = None
    _group: dist.ProcessGroup | None = None

    def start_saving(self, path: str, filesystem: pafs.FileSystem, on_written: Callable[[], None]) -> None:
        """Copies what is to be saved, and returns; the first learner calls `on_written` when all of it is at `path`.

        Not again before `finish_saving`.

        Raises:
            FileNotFoundError: the folder in which `path` lies cannot be seen by a learner that is to write there.
        """
        assert self._writing is None, "the last save was not waited for"
        if not self.is_first and not self.is_sharded:
            return
        _check_sees(Storage(filesystem, path.rpartition("/")[0]), self)
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
            # Its own, for what its thread sends must not get between what learners send each other.
            self._group = dist.new_group(backend="gloo") if self.is_sharded else None
        self._writing = self._writer.submit(self._write, Storage(filesystem, path), *self._copy(), on_written)

    def finish_saving(self) -> None:
        """Waits for what `start_saving` began. Raises what kept it from being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def save_to_path(self, path: Any = None, *, state: Any = None, filesystem: Any = None, **kwargs: Any) -> str:
        """What the two halves write; for a learner that does not shard.

        state: what RLlib took from `get_state`, of which nothing is needed here.
        """
        self._refuse_if_sharded()
        place = Storage.given(path, filesystem)
        self._write(place, *self._copy(), lambda: None)
        return place.path

    def restore_from_path(self, path: Any, *, component: Any = None, filesystem: Any = None, **kwargs: Any) -> None:
        """As many learners as there are, and sharded or not, read what others have saved; each what it needs.

        A component is RLlib's, restored from the model directory.
        """
        if component is not None:
            super().restore_from_path(path, component=component, filesystem=filesystem, **kwargs)
            return
        place = Storage.given(path, filesystem)
        make_room(self, kept_tensors(place / SHARDS))
        read_shards(learner_tensors(self), place / SHARDS)
        with place.filesystem.open_input_stream(f"{place.path}/{self.STATE_FILE_NAME}.pkl") as file:
            state = cloudpickle.load(file)
        for name, groups in state.pop(_GROUPS).items():
            for group, saved in zip(self._named_optimizers[name].param_groups, groups, strict=True):
                group.update(saved)
        self.set_state(state)

    def _copy(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Of the state of this moment: what is small, and this learner's tensors, on the CPU."""
        state = self.get_state(not_components=[COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER])
        state[COMPONENT_METRICS_LOGGER] = copy.deepcopy(state[COMPONENT_METRICS_LOGGER])
        state[_GROUPS] = {
            name: [{key: copy.copy(value) for key, value in group.items() if key != "params"} for group in groups]
            for name, groups in ((name, each.param_groups) for name, each in self._named_optimizers.items())
        }
        return state, {name: tensor.to("cpu", copy=True) for name, tensor in learner_tensors(self).items()}

    def _write(
        self, place: Storage, state: dict[str, Any], tensors: dict[str, torch.Tensor], on_written: Callable[[], None]
    ) -> None:
        write_shards(tensors, place / SHARDS, self._group)
        if not self.is_first:
            return
        weights = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in weights_in(tensors).items()}
        tensors.clear()  # of the whole model there is one copy at a time
        read_shards(weights, place / SHARDS)
        state[COMPONENT_RL_MODULE] = by_module(weights)
        del weights
        super().save_to_path(place.path, filesystem=place.filesystem, state=state)
        on_written()


def _check_sees(place: Storage, learner: VLMLearner) -> None:
    """That the folder exists from here; learners that write together find out together, and none waits for others."""
    sees = float(place.exists())
    if (over_learners(sees, dist.ReduceOp.MIN, learner._device) if learner.is_sharded else sees) == 0:
        raise FileNotFoundError(
            f"learners do not all see {place.path}: output_dir must be a folder that all nodes share, or a URI"
            + ("" if learner.is_sharded else "; or set checkpoints.asynchronous to false")
        )
