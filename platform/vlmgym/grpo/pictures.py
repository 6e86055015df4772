"""How every forward pass gets a picture, so that the vision tower takes part on every learner."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

from vlmgym.grpo.sequences import TrainSequence
from vlmgym_policies.engine import Message, Prompt
from vlmgym_policies.processing import VLMProcessor

BLANK_PX = 56


def with_picture(records: Sequence[TrainSequence], processor: VLMProcessor) -> list[TrainSequence]:
    """The records; where none has a picture, with one more that has, and counts for nothing.

    Without it the tower would stay out of this learner's turn, and the others wait for its weights, or its gradients,
    until they time out.
    """
    if any(record.images for record in records):
        return list(records)
    shortest = min(records, key=lambda record: record.num_tokens)
    prompt = Prompt((Message("user", "", (_blank(),)),))
    blank = shortest._replace(
        prompt_ids=processor.encode(prompt),
        images=prompt.images,
        image_digests=(),
        weights=np.zeros_like(shortest.weights),
    )
    return [*records, blank]


@cache
def _blank() -> bytes:
    """A white picture, as a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (BLANK_PX, BLANK_PX), "white").save(file, "PNG")
    return file.getvalue()
