"""Decides what a prompt holds."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from vlmgym.settings.section import Section
from vlmgym_policies.history import History, Reach, check_reach
from vlmgym_policies.prompting import Observation


class HistorySettings(Section):
    """What a prompt holds of the earlier turns of its episode."""

    turns: Reach = Field(0, description="how many earlier turns, or all")
    pictures: Reach = Field("all", description="how many of these, the last ones, keep their picture, or all")

    @field_validator("turns", "pictures", mode="plain")
    @classmethod
    def _is_reach(cls, value: Any, info: ValidationInfo) -> Any:
        check_reach(str(info.field_name), value)
        return value

    def make(self) -> History:
        return History(self.turns, self.pictures)


class PromptSettings(Section):
    """What a prompt holds; anything but `picture` is for ablations."""

    observation: Observation = Field(
        "picture", description="the board's picture, its exact text alone, or both: an oracle for perception"
    )
    history: HistorySettings = HistorySettings()
