from collections.abc import Callable
from pathlib import Path

import pytest

JOB = """\
name: demo
game: {id: shisen_sho, level: tiny}
model: {tiny: true}
tracking: {wandb: off}
"""


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a small valid job with `more` YAML behind it; its runs go to tmp_path/runs."""

    def write(more: str = "") -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(f"{JOB}output_dir: {tmp_path / 'runs'}\n{more}")
        return path

    return write
