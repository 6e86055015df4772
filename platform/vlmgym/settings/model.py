"""Decides which model is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from vlmgym.settings.section import Section

Dtype = Literal["float32", "bfloat16"]


class ModelSettings(Section):
    """The vision-language model that is trained: one of `path` and `tiny`."""

    path: str | None = Field(None, description="a model directory, or a name on the Hugging Face hub")
    tiny: bool = Field(False, description="make a tiny model, without a download, in the run directory")
    dtype: Dtype = Field("float32", description="of the weights, on learners and engines")
    train_vision: bool = Field(True, description="whether the vision tower is trained")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if (self.path is not None) == self.tiny:
            raise ValueError("one of path and tiny is required, and only one")
        if self.path is not None and not _is_hub_name(self.path):
            if not Path(self.path).is_dir():
                raise ValueError(f"path {self.path!r} does not exist")
            if not (Path(self.path) / "config.json").is_file():
                raise ValueError(f"path {self.path!r} is not a model directory: it has no config.json")
        return self


def _is_hub_name(path: str) -> bool:
    """Whether `path` can only be OWNER/NAME on a hub: no such directory here, nor one named as its owner."""
    is_pair = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path) is not None
    return is_pair and not Path(path).exists() and not Path(path).parent.is_dir()
