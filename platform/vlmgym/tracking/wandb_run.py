"""Decides what wandb sees of a run: `STAGE/METRIC` over `STAGE/step`, and rollouts as pictures."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmgym.settings import TrackingSettings

Picture = tuple[bytes, str]
"""PNG and caption."""


def wandb_mode(settings: TrackingSettings) -> str:
    """online, offline or off; `auto` follows WANDB_MODE, else whether there is a key."""
    if settings.wandb != "auto":
        return settings.wandb
    default = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    mode = os.environ.get("WANDB_MODE", default)
    return "off" if mode == "disabled" else mode


class WandbRun:
    """One wandb run per run directory; a resumed run keeps its id."""

    def __init__(
        self, run_dir: Path, mode: str, project: str, name: str, group: str, config: Mapping[str, Any]
    ) -> None:
        import wandb

        self._wandb = wandb
        known = run_dir / "wandb-id"
        if not known.exists():
            known.write_text(secrets.token_hex(4), encoding="utf-8")
        self._run = wandb.init(
            dir=run_dir,
            mode="online" if mode == "online" else "offline",
            id=known.read_text(encoding="utf-8"),
            resume="allow" if mode == "online" else None,
            project=project,
            name=name,
            group=group,
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )

    def start_stage(self, stage: str) -> None:
        self._run.define_metric(f"{stage}/step")
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in metrics.items()})

    def log_pictures(self, stage: str, step: int, pictures: Sequence[Picture]) -> None:
        import io

        from PIL import Image

        images = [self._wandb.Image(Image.open(io.BytesIO(png)), caption=caption) for png, caption in pictures]
        self._run.log({f"{stage}/step": step, f"{stage}/rollouts": images})

    def close(self) -> None:
        self._run.finish()


class NoWandb:
    """Takes everything and keeps nothing: wandb is off."""

    def start_stage(self, stage: str) -> None: ...

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def log_pictures(self, stage: str, step: int, pictures: Sequence[Picture]) -> None: ...

    def close(self) -> None: ...
