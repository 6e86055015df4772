"""Decides which model is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vlmgym.settings.section import Section

Dtype = Literal["float32", "bfloat16"]


class LoraSettings(Section):
    """Low-rank adapters, through peft."""

    rank: int = Field(16, ge=1, description="of each adapter")
    alpha: float = Field(32.0, gt=0, description="an adapter's product is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapters' inputs, on learners alone")
    target_modules: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | Literal["all-linear"] = Field(
        "all-linear", description="last parts of the names of layers that get adapters; or all but the output layer"
    )


class ModelSettings(Section):
    """The vision-language model that is trained: one of `path` and `tiny`."""

    path: str | None = Field(None, description="a model directory, or a name on the Hugging Face hub")
    tiny: bool = Field(False, description="make a tiny model, without a download, in the run directory")
    dtype: Dtype = Field(
        "float32", description="what learners and engines compute in; weights that are trained are float32 all the same"
    )
    train_vision: bool = Field(True, description="whether the vision tower is trained")
    lora: LoraSettings | None = Field(None, description="trains low-rank adapters alone, and merges them for engines")

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
