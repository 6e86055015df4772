"""One process per run directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlmgym.job import JobError
from vlmgym.run_lock import run_lock

HOLDER = """
import sys, time
from pathlib import Path
from vlmgym.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(run_dir):
    """A process that has the lock."""
    roots = os.pathsep.join(str(Path(__file__).parents[2] / name) for name in ("platform", "envs", "policies"))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": roots},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_has_the_directory_until_that_is_gone(tmp_path):
    run_dir = tmp_path / "runs" / "demo"
    process = hold(run_dir)
    try:
        with pytest.raises(JobError, match=rf"{run_dir} is in use by process {process.pid} on "), run_lock(run_dir):
            pass
        with run_lock(tmp_path / "runs" / "other"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with run_lock(run_dir):
        run_dir.mkdir()


def test_the_lock_survives_that_its_directory_is_moved_aside(tmp_path):
    run_dir = tmp_path / "demo"
    run_dir.mkdir()
    with run_lock(run_dir):
        run_dir.rename(tmp_path / "demo.1")
        run_dir.mkdir()
        with pytest.raises(JobError, match="is in use"), run_lock(run_dir):
            pass
