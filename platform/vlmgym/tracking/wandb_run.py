"""Decides what wandb sees of a run: `STAGE/METRIC` over `STAGE/step`, boards, films, rollouts, checkpoints, alerts."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmgym.checkpoints import hugging_face_dir
from vlmgym.job import Job
from vlmgym.metrics_file import Point
from vlmgym.settings import TrackingSettings
from vlmgym.tracking.alerts import Alert
from vlmgym.tracking.provenance import provenance
from vlmgym.tracking.rollouts import Rollout

ROLLOUTS, BOARDS, REPLAYS = "rollouts", "boards", "replays"
"""Under which names of a stage the media are."""


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

    def log_rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """The boards as pictures, and a table without them: pictures in tables do not survive being offline."""
        from PIL import Image

        images = [
            self._wandb.Image(Image.open(io.BytesIO(rollout.picture)), caption=rollout.response) for rollout in rollouts
        ]
        names = sorted({name for rollout in rollouts for name in rollout.rewards})
        texts = [name for name in Rollout._fields if name not in ("picture", "rewards")]
        rows = [
            [step, *(getattr(rollout, name) for name in texts), *(rollout.rewards.get(name) for name in names)]
            for rollout in rollouts
        ]
        table = self._wandb.Table(columns=["step", *texts, *names], data=rows)
        self._run.log({f"{stage}/step": step, f"{stage}/{BOARDS}": images, f"{stage}/{ROLLOUTS}": table})

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


class NoWandb:
    """Takes everything and keeps nothing: wandb is off."""

    def start_stage(self, stage: str) -> None: ...

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def log_rollouts(self, stage: str, step: int, rollouts: Sequence[Rollout]) -> None: ...

    def log_replays(self, stage: str, step: int, films: Sequence[Path]) -> None: ...

    def use_model(self, path: str) -> None: ...

    def log_checkpoint(self, point: Point, path: Path, keep: str) -> None: ...

    def alert(self, alert: Alert) -> None: ...

    def close(self) -> None: ...
