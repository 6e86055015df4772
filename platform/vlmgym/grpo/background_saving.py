"""How a learner saves its state while it goes on learning: a copy is taken at once and written by a thread."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow.fs as pafs
import torch.distributed as dist
from ray.rllib.core import COMPONENT_METRICS_LOGGER

from vlmgym.grpo.vlm_learner import VLMLearner


class BackgroundSaving(VLMLearner):
    """A learner with `save_to_path` in two halves. All learners of a group are asked for both; the first one writes."""

    _writer: ThreadPoolExecutor | None = None
    _writing: Future[None] | None = None

    def start_saving(self, path: str, filesystem: pafs.FileSystem, on_written: Callable[[], None]) -> None:
        """Copies what `save_to_path` would write, and returns; `on_written` is called when all of it is at `path`.

        Not again before `finish_saving`.

        Raises:
            FileNotFoundError: the folder in which `path` lies cannot be seen from here.
        """
        assert self._writing is None, "the last save was not waited for"
        self.gather()
        try:
            if not dist.is_initialized() or dist.get_rank() == 0:
                self._start_writing(path, filesystem, on_written)
        finally:
            self.release()

    def finish_saving(self) -> None:
        """Waits for what `start_saving` began. Raises what kept it from being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _start_writing(self, path: str, filesystem: pafs.FileSystem, on_written: Callable[[], None]) -> None:
        parent = path.rpartition("/")[0]
        if filesystem.get_file_info(parent).type == pafs.FileType.NotFound:
            raise FileNotFoundError(
                f"learners do not see {parent}: output_dir must be a folder that all nodes share, or a URI; or set "
                "checkpoints.asynchronous to false"
            )
        state = self.get_state()
        state[COMPONENT_METRICS_LOGGER] = copy.deepcopy(state[COMPONENT_METRICS_LOGGER])
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._writer.submit(self._write, path, filesystem, state, on_written)

    def _write(
        self, path: str, filesystem: pafs.FileSystem, state: dict[str, Any], on_written: Callable[[], None]
    ) -> None:
        self.save_to_path(path, filesystem=filesystem, state=state)
        on_written()
