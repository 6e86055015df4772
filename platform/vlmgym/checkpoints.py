"""Where checkpoints of a run lie: written whole or not at all, named by stage and step, the newest kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmgym.grpo.config import POLICY_ID
from vlmgym.metrics_file import Point
from vlmgym_policies.vlm_module import HF_DIRECTORY

PARTIAL = ".partial"


class Checkpoints:
    """The folder `checkpoints/` of a run: STAGE-NNNNNN per checkpoint, an RLlib checkpoint each."""

    def __init__(self, run_dir: Path, stages: Sequence[str]) -> None:
        """stages: in the order in which they run."""
        self._root = run_dir / "checkpoints"
        self._stages = list(stages)

    def save(self, algorithm: Any, point: Point, keep: int) -> Path:
        """Writes a checkpoint, then drops all but the newest `keep` of its stage. A kill leaves the previous ones."""
        path = self.path(point)
        partial = path.with_name(path.name + PARTIAL)
        for leftover in (partial, path):
            shutil.rmtree(leftover, ignore_errors=True)
        algorithm.save_to_path(str(partial.absolute()))
        os.replace(partial, path)
        for old in self._points(point.stage)[:-keep]:
            shutil.rmtree(self.path(old))
        return path

    def path(self, point: Point) -> Path:
        return self._root / f"{point.stage}-{point.step:06d}"

    def latest(self) -> Point | None:
        """The newest checkpoint of the last stage that has one."""
        for stage in reversed(self._stages):
            if points := self._points(stage):
                return points[-1]
        return None

    def _points(self, stage: str) -> list[Point]:
        found = (path.name.rpartition("-") for path in self._root.glob(f"{stage}-*") if path.suffix != PARTIAL)
        return sorted(Point(name, int(step)) for name, _, step in found if name == stage)


def hugging_face_dir(checkpoint: Path) -> Path:
    """The model directory inside a checkpoint: `from_pretrained`, vLLM and Serve load it as it is."""
    return checkpoint / "learner_group" / "learner" / "rl_module" / POLICY_ID / HF_DIRECTORY
