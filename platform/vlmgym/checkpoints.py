"""Which checkpoints of a run there are: written whole or not at all, the newest and the best kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from vlmgym.grpo.config import POLICY_ID
from vlmgym.metrics_file import Point
from vlmgym.storage import Storage
from vlmgym_policies.vlm_module import HF_DIRECTORY

CHECKPOINTS = "checkpoints"
BEST_FILE = "best.json"
MARK_FILE = "checkpoint.json"
PARTIAL = ".partial"
Order = Literal["max", "min"]
Folder = TypeVar("Folder", Path, Storage)


class Score(NamedTuple):
    """A metric of the step that a checkpoint was taken after."""

    metric: str
    value: float


class Checkpoints:
    """The folder `checkpoints/` of a run: STAGE-NNNNNN per checkpoint, an RLlib checkpoint each.

    A checkpoint is whole when it holds MARK_FILE, which is written last; where folders can be renamed it has its name
    only then. What a kill left behind is neither seen nor kept. BEST_FILE names the best of those with a score.
    """

    def __init__(self, run: Storage, stages: Sequence[str], keep: int = 1, best: Order = "max") -> None:
        """stages: in the order in which they run. keep: newest checkpoints of the stage that runs; earlier ones keep 1.
        best: which end of the scores is the best."""
        self.folder = run / CHECKPOINTS
        self._stages = list(stages)
        self._keep = keep
        self._sign = 1.0 if best == "max" else -1.0

    def begin(self, point: Point) -> Storage:
        """Where the checkpoint is to be written; what an earlier try left there is gone."""
        self.path(point).delete()
        place = self._place(point)
        place.delete()
        return place

    def finish(self, point: Point, score: Score | None = None) -> None:
        """Makes a checkpoint that was written count, then names the best and drops those that are not to be kept."""
        place = self._place(point)
        _mark(place, point, score)
        if place != self.path(point):
            place.filesystem.move(place.path, self.path(point).path)
        self._choose()

    def rate(self, point: Point, score: Score) -> None:
        """Gives a checkpoint a score that was not known when it was written."""
        _mark(self.path(point), point, score)
        self._choose()

    def _choose(self) -> None:
        """Names the best, and drops what is not to be kept."""
        best = self.best()
        if best is not None:
            chosen = {"checkpoint": _name(best), "score": self._scores()[best]._asdict()}
            (self.folder / BEST_FILE).write(json.dumps(chosen) + "\n")
        self._drop_old(best)

    def path(self, point: Point) -> Storage:
        return self.folder / _name(point)

    def latest(self) -> Point | None:
        """The newest checkpoint of the last stage that has one."""
        points = self._points()
        return points[-1] if points else None

    def best(self) -> Point | None:
        """The checkpoint with the best score, the newest of equals; None where none has one."""
        scores = self._scores()
        order = {point: (self._sign * score.value, index) for index, (point, score) in enumerate(scores.items())}
        return max(order, key=lambda point: order[point], default=None)

    def _place(self, point: Point) -> Storage:
        """Where a checkpoint stands until it is whole."""
        return self.folder / (_name(point) + PARTIAL) if self.folder.renames else self.path(point)

    def _points(self) -> list[Point]:
        """All that are whole, in the order of the run."""
        found = []
        for name in self.folder.names():
            stage, _, step = name.rpartition("-")
            if stage in self._stages and step.isdecimal() and (self.folder / name / MARK_FILE).exists():
                found.append(Point(stage, int(step)))
        return sorted(found, key=lambda point: (self._stages.index(point.stage), point.step))

    def _scores(self) -> dict[Point, Score]:
        """Of the checkpoints that have one."""
        marks = {point: json.loads((self.path(point) / MARK_FILE).read()) for point in self._points()}
        return {point: Score(**mark["score"]) for point, mark in marks.items() if mark["score"]}

    def _drop_old(self, best: Point | None) -> None:
        points = self._points()
        for stage in self._stages:
            of_stage = [point for point in points if point.stage == stage]
            keep = self._keep if stage == points[-1].stage else 1
            for old in of_stage[:-keep]:
                if old != best:
                    self.path(old).delete()


def _mark(checkpoint: Storage, point: Point, score: Score | None) -> None:
    mark = {"stage": point.stage, "step": point.step, "score": score and score._asdict()}
    (checkpoint / MARK_FILE).write(json.dumps(mark) + "\n")


def _name(point: Point) -> str:
    return f"{point.stage}-{point.step:06d}"


def hugging_face_dir(checkpoint: Folder) -> Folder:
    """The model directory inside a checkpoint: `from_pretrained`, vLLM and Serve load it as it is."""
    return checkpoint / "learner_group" / "learner" / "rl_module" / POLICY_ID / HF_DIRECTORY
