"""Runs of `vlmgym` in processes of their own, which tests watch by the metrics they write, stop and kill."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def start(log: Path, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Runs `vlmgym` with its output in a file: what a killed run leaves behind would keep a pipe open."""
    roots = os.pathsep.join(str(ROOT / name) for name in ("platform", "envs", "policies"))
    environment = {**os.environ, "PYTHONPATH": roots, "RAY_ADDRESS": "local"}  # join no cluster of another test
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "vlmgym", *map(str, arguments)],
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    )


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, timeout_s: float = 480
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def has_done(run_dir: Path, stage: str, step: int) -> bool:
    return any((line["stage"], line["step"]) == (stage, step) for line in lines_of(run_dir))
