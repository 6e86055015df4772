"""Decides what both stages ask of AdamW alike."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], Field(strict=False)]
