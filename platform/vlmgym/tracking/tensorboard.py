"""Decides what TensorBoard shows of a run: one of its runs per stage, so that each has its own steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmgym.metrics_file import Point

TENSORBOARD_DIR = "tensorboard"


class TensorBoard:
    """Writes event files to `tensorboard/STAGE/`."""

    def __init__(self, run_dir: Path, resume_after: Point | None = None) -> None:
        """resume_after: what was logged later in its stage is hidden by TensorBoard."""
        self._dir = run_dir / TENSORBOARD_DIR
        self._resume_after = resume_after
        self._writers: dict[str, Any] = {}

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if stage not in self._writers:
            self._writers[stage] = self._open(stage)
        for name, value in metrics.items():
            self._writers[stage].add_scalar(name, value, step)
        self._writers[stage].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _open(self, stage: str) -> Any:
        from tensorboardX import SummaryWriter  # a requirement of ray[rllib]

        after = self._resume_after
        purge_step = after.step + 1 if after is not None and after.stage == stage else None
        return SummaryWriter(str(self._dir / stage), purge_step=purge_step, write_to_disk=True)
