"""Decides what a prompt shows."""

from __future__ import annotations

from pydantic import Field

from vlmgym.settings.section import Section
from vlmgym_policies.prompting import Observation


class PromptSettings(Section):
    """What a prompt shows; anything but `picture` is for ablations."""

    observation: Observation = Field(
        "picture", description="the board's picture, its exact text alone, or both: an oracle for perception"
    )
