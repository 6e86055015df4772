"""How an observation becomes a prompt."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmgym_policies.engine import Message, Prompt


def make_prompt(text: str, image: NDArray[np.uint8], state: Any = None) -> Prompt:
    """One user message: the picture, then the instruction. image: uint8 [H, W, 3]."""
    return Prompt((Message("user", text, (png(image),)),), state)


def png(image: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] -> PNG file; the same pixels give the same bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()
