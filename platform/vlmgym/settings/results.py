"""Decides how results are measured."""

from __future__ import annotations

from pydantic import Field

from vlmgym.settings.section import Section


class EvaluationSettings(Section):
    """How policies are measured on held-out states."""

    num_states: int = Field(512, ge=1, description="held-out states of an evaluation")
    serve_replicas: int = Field(
        0, ge=0, description="replicas on Ray Serve that answer, as large as an engine; 0 asks the training's engines"
    )
