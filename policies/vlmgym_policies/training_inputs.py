"""Decides what a model is given to score whole sequences: padded on the right, without a mask, each picture once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from vlmgym_policies.pictures import GRIDS, IMAGE_SOURCES, can_see_each_once
from vlmgym_policies.positions import Positions
from vlmgym_policies.processing import VLMProcessor


class TrainingInputs:
    """Makes model inputs of sequences for one model and its processor. `vision_tower`: that model's."""

    def __init__(self, processor: VLMProcessor, model: PreTrainedModel, vision_tower: torch.nn.Module) -> None:
        self._processor = processor
        self._positions = Positions(model)
        self._distinct_images = can_see_each_once(vision_tower)

    def __call__(
        self, token_ids: Sequence[NDArray[np.int32]], images: Sequence[Sequence[bytes]]
    ) -> dict[str, torch.Tensor]:
        """A batch on the CPU: int64 [B, T] ids, their positions where the model does not count by itself, pixels.

        No mask: with causal attention no token sees the padding behind it, and without one the kernels need no scores
        of [T, T] and leave out the half above the diagonal.
        """
        inputs = self._processor.collate(token_ids, images, padding="right", distinct_images=self._distinct_images)
        shown = inputs
        if IMAGE_SOURCES in inputs:
            shown = {**inputs, GRIDS: inputs[GRIDS][inputs[IMAGE_SOURCES]]}
        position_ids = self._positions.of_sequences(shown, [len(row) for row in images])
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        del inputs["attention_mask"]
        return inputs
