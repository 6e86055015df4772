"""Which model directory a path means, and how to tell two of them apart."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vlmgym_policies.history import History
from vlmgym_policies.prompting import Observation

_WEIGHTS = (".safetensors", ".bin", ".json", ".jinja")


def find_model_dir(path: Path) -> Path:
    """A model directory itself; the one inside a checkpoint; or that of the last checkpoint of a run.

    Errors: ValueError where the path holds none of them.
    """
    if (path / "config.json").is_file():
        return path
    from vlmgym.checkpoints import Checkpoints, hugging_face_dir
    from vlmgym.curves import COLD_START, GRPO
    from vlmgym.storage import Storage

    if hugging_face_dir(path).is_dir():
        return hugging_face_dir(path)
    checkpoints = Checkpoints(Storage.at(path), [COLD_START, GRPO])
    latest = checkpoints.latest()
    if latest is None:
        raise ValueError(f"{str(path)!r} holds no model (config.json), no checkpoint and no run with a checkpoint")
    return hugging_face_dir(Path(checkpoints.path(latest).path))


def model_fingerprint(model_dir: Path) -> str:
    """16 hexadecimal digits of the names, sizes and times of the files of a model directory."""
    files = sorted(file for file in model_dir.iterdir() if file.suffix in _WEIGHTS)
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return blake2b(repr(stamps).encode(), digest_size=8).hexdigest()


def run_of(model_dir: Path) -> Path | None:
    """The run directory that a model directory lies in; None for one that lies in no run."""
    from vlmgym.run_dir import JOB_FILE

    for folder in model_dir.absolute().parents:
        if (folder / "checkpoints").is_dir() and (folder / JOB_FILE).is_file():
            return folder
    return None


def trained_max_tokens(model_dir: Path) -> int | None:
    """The response bound of the job that trained a model; None for a model that lies in no run directory."""
    job = _trained_job(model_dir)
    return None if job is None else int(job["sampling"]["max_tokens"])


def trained_observation(model_dir: Path) -> Observation | None:
    """What prompts showed where the model was trained; None for a model that lies in no run directory."""
    job = _trained_job(model_dir)
    return None if job is None else job.get("prompt", {}).get("observation", "picture")


def trained_history(model_dir: Path) -> History | None:
    """What the prompts of that job held of earlier turns; None for a model that lies in no run directory."""
    job = _trained_job(model_dir)
    return None if job is None else History(**job.get("prompt", {}).get("history", {}))


def trained_games(model_dir: Path) -> list[Mapping[str, Any]]:
    """What that job played, a section per game; empty for a model that lies in no run directory."""
    job = _trained_job(model_dir) or {}
    return [job["game"]] if job.get("game") else list(job.get("games", ()))


def _trained_job(model_dir: Path) -> Mapping[str, Any] | None:
    """The resolved job, as it was written: an older version may have written fewer knobs."""
    from vlmgym.run_dir import JOB_FILE
    from vlmgym.yaml12 import parse_yaml

    run = run_of(model_dir)
    if run is None:
        return None
    job: Mapping[str, Any] = parse_yaml((run / JOB_FILE).read_text(encoding="utf-8"))
    return job
