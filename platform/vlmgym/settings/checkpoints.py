"""Decides when checkpoints are written, and which are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmgym.settings.section import Section


class CheckpointSettings(Section):
    """What a run can go on from after it ended early."""

    every: int = Field(
        10, ge=1, description="GRPO iterations between checkpoints; the cold start has one per evaluation"
    )
    keep: int = Field(3, ge=1, description="newest checkpoints kept, besides the best")
    best_metric: str = Field(
        "evaluation/greedy/legal_move_rate", description="the best checkpoint is that of the step with the best of this"
    )
    best: Literal["max", "min"] = Field("max", description="which end of best_metric is the best")
    asynchronous: bool = Field(
        True, description="go on training while one is written; learners elsewhere must see output_dir for it"
    )
