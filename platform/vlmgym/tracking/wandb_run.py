"""Decides what wandb sees of a run: `STAGE/METRIC` over `STAGE/step`, boards, films, rollouts, checkpoints, alerts."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmgym.checkpoints import hugging_face_dir
from vlmgym.job import Job
from vlmgym.metrics_file import Point
from vlmgym.settings import TrackingSettings
from vlmgym.tracking.alerts import Alert
from vlmgym.tracking.group_record import GroupRecord, GroupWithPictures
from vlmgym.tracking.provenance import provenance

if TYPE_CHECKING:
    from PIL import Image

ROLLOUTS, BOARDS, REPLAYS = "rollouts", "boards", "replays"
"""Under which names of a stage the media are."""
TABLE = (
    *("step", "group_id", "game", "level", "branch", "turn"),
    *("board", "response", "move", "best", "refused"),
    *("reward", "game_reward", "advantage", "regret", "well_formed", "num_wrong_cells"),
)
"""Columns of the table of rollouts, as in `GroupRecord` and `TurnRecord`."""


def wandb_mode(settings: TrackingSettings) -> str:
    """online, offline or off; `auto` follows WANDB_MODE, else whether there is a key."""
    if settings.wandb != "auto":
        return settings.wandb
    default = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    mode = os.environ.get("WANDB_MODE", default)
    return "off" if mode == "disabled" else mode


class WandbRun:
    """One wandb run per run directory, its stages as groups of panels; a resumed run keeps its id.

    Lineage: a checkpoint's metadata name what it was made from; online, that artifact is an input of the run, too.
    """

    def __init__(self, job: Job, mode: str) -> None:
        import wandb

        self._wandb = wandb
        self._job = job
        self._is_online = mode == "online"
        run_dir = job.run_dir
        known = run_dir / "wandb-id"
        if not known.exists():
            known.write_text(secrets.token_hex(4), encoding="utf-8")
        # Artifacts are staged there until `wandb sync`; by default below $HOME, which a container may not have.
        os.environ.setdefault("WANDB_DATA_DIR", str((run_dir / "wandb").absolute()))
        self._run: Any = wandb.init(
            dir=run_dir,
            mode="online" if self._is_online else "offline",
            id=known.read_text(encoding="utf-8"),
            resume="allow" if self._is_online else None,
            project=job.tracking.project,
            name=job.run_name,
            group=job.name,
            job_type="train",
            config={**job.model_dump(mode="json"), "provenance": provenance()},
            settings=wandb.Settings(console="off", silent=True),
        )
        self._made_from: str | None = None

    def start_stage(self, stage: str) -> None:
        self._run.define_metric(f"{stage}/step")
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in metrics.items()})

    def log_groups(self, point: Point, groups: Sequence[GroupWithPictures]) -> None:
        """The start boards as pictures, and a table without them: pictures in tables do not survive being offline."""
        stage = point.stage
        starts = _on_one_size([group.pictures[group.record.boards[0].picture] for group in groups])
        images = [
            self._wandb.Image(start, caption=_caption(group.record))
            for start, group in zip(starts, groups, strict=True)
        ]
        rows = [row for group in groups for row in _rows(group.record)]
        table = self._wandb.Table(columns=list(TABLE), data=rows)
        self._run.log({f"{stage}/step": point.step, f"{stage}/{BOARDS}": images, f"{stage}/{ROLLOUTS}": table})

    def log_replays(self, stage: str, step: int, films: Sequence[Path]) -> None:
        """films: finished mp4 files."""
        videos = [self._wandb.Video(str(film), format="mp4") for film in films]
        self._run.log({f"{stage}/step": step, f"{stage}/{REPLAYS}": videos})

    def use_model(self, path: str) -> None:
        """The model that the run starts from, as an input of it."""
        self._made_from = path
        if self._is_online:
            artifact = self._wandb.Artifact(f"{self._job.run_name}-start", "model", metadata={"path": path})
            if Path(path).is_dir():
                artifact.add_reference(Path(path).absolute().as_uri(), checksum=False)
            self._run.use_artifact(artifact)

    def log_checkpoint(self, point: Point, path: Path, keep: str) -> None:
        """keep: "reference" or "upload", as in `TrackingSettings.checkpoints`."""
        name = f"{self._job.run_name}-{point.stage}"
        metadata = {"stage": point.stage, "step": point.step, "path": str(path), "made_from": self._made_from}
        artifact = self._wandb.Artifact(name, "model", metadata=metadata)
        if keep == "upload":
            artifact.add_dir(str(hugging_face_dir(path)))
        else:
            artifact.add_reference(path.absolute().as_uri(), checksum=False)
        alias = f"step-{point.step}"
        self._run.log_artifact(artifact, aliases=["latest", alias])
        self._made_from = f"{name}:{alias}"

    def alert(self, alert: Alert) -> None:
        self._run.alert(alert.title, alert.text, level="WARN")

    def close(self) -> None:
        self._run.finish()


def _on_one_size(pngs: Sequence[bytes]) -> list[Image.Image]:
    """The pictures, with white to the right and below up to the largest: wandb shows lists of one size alone."""
    from PIL import Image, ImageOps

    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    width = max((picture.width for picture in pictures), default=0)
    height = max((picture.height for picture in pictures), default=0)
    return [
        ImageOps.expand(picture, (0, 0, width - picture.width, height - picture.height), "white")
        for picture in pictures
    ]


def _caption(group: GroupRecord) -> str:
    rewards = ", ".join(f"{branch.reward:g}" for branch in group.branches)
    return f"group {group.group_id}, {group.game} {group.level}: rewards {rewards}"


def _rows(group: GroupRecord) -> Iterator[list[Any]]:
    """A row of `TABLE` per decision."""
    for number, branch in enumerate(group.branches):
        for turn_number, turn in enumerate(branch.turns):
            board = group.boards[turn.board]
            yield [
                *(group.step, group.group_id, group.game, group.level, number, turn_number),
                *(board.text, turn.response, turn.move, board.best, turn.refused),
                *(turn.reward, turn.game_reward, turn.advantage, turn.regret, turn.well_formed, len(turn.errors)),
            ]


class NoWandb:
    """Takes everything and keeps nothing: wandb is off."""

    def start_stage(self, stage: str) -> None: ...

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def log_groups(self, point: Point, groups: Sequence[GroupWithPictures]) -> None: ...

    def log_replays(self, stage: str, step: int, films: Sequence[Path]) -> None: ...

    def use_model(self, path: str) -> None: ...

    def log_checkpoint(self, point: Point, path: Path, keep: str) -> None: ...

    def alert(self, alert: Alert) -> None: ...

    def close(self) -> None: ...
