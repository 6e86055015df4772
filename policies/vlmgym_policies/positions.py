"""At which positions a model finds the tokens of a text: on one axis, or on three where pictures have sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedModel

_CACHED_LAYOUTS = 256


class Positions:
    """Positions of one model's tokens, by its own `get_rope_index` where it has one."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model.base_model
        self._of_layout = lru_cache(_CACHED_LAYOUTS)(self._compute)

    @property
    def is_mrope(self) -> bool:
        """Whether a token's position is three numbers, time, height and width."""
        return hasattr(self._model, "get_rope_index")

    def __call__(
        self, inputs: Mapping[str, torch.Tensor], num_images: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the prompts' tokens, int64 [B, T] or [3, B, T], 0 for padding; and how far the position of the
        next token is ahead of the number of tokens, int64 [B]. All on the CPU.

        inputs: as `VLMProcessor.collate` makes them, padded on the left. num_images: of each prompt.
        """
        mask = inputs["attention_mask"]
        if not self.is_mrope or "mm_token_type_ids" not in inputs:
            position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
            return (position_ids.expand(3, -1, -1) if self.is_mrope else position_ids), torch.zeros(len(mask)).long()
        position_ids = torch.zeros(3, *mask.shape, dtype=torch.int64)
        deltas = torch.zeros(len(mask), dtype=torch.int64)
        grids = torch.split(inputs["image_grid_thw"], list(num_images))
        for row, length in enumerate(mask.sum(-1).tolist()):
            token_ids = tuple(inputs["input_ids"][row, -length:].tolist())
            types = tuple(inputs["mm_token_type_ids"][row, -length:].tolist())
            position_ids[:, row, -length:], deltas[row] = self._of_layout(token_ids, types, _as_tuples(grids[row]))
        return position_ids, deltas

    def of_sequences(self, inputs: Mapping[str, torch.Tensor], num_images: Sequence[int]) -> torch.Tensor | None:
        """Positions of whole sequences, int64 [3, B, T] on the CPU; None where a model counts itself, on one axis.

        inputs: as `VLMProcessor.collate` makes them, padded on the right, where positions mean nothing. num_images: of
        each row.
        """
        if not self.is_mrope:
            return None
        num_rows, width = inputs["input_ids"].shape
        position_ids = torch.arange(width).expand(3, num_rows, -1).clone()
        if "mm_token_type_ids" not in inputs:
            return position_ids
        grids = torch.split(inputs["image_grid_thw"], list(num_images))
        shown = inputs["mm_token_type_ids"].cumsum(-1).argmax(-1) + 1  # up to the last token of a picture
        for row in (row for row in range(num_rows) if num_images[row]):
            end = int(shown[row])
            token_ids = tuple(inputs["input_ids"][row, :end].tolist())
            types = tuple(inputs["mm_token_type_ids"][row, :end].tolist())
            position_ids[:, row, :end], delta = self._of_layout(token_ids, types, _as_tuples(grids[row]))
            position_ids[:, row, end:] += delta
        return position_ids

    def _compute(
        self, token_ids: tuple[int, ...], types: tuple[int, ...], grids: tuple[tuple[int, ...], ...]
    ) -> tuple[torch.Tensor, int]:
        """Of one text without padding, [3, T]. Takes about a millisecond; prompts of a game seldom differ here."""
        position_ids, deltas = self._model.get_rope_index(
            input_ids=torch.tensor([token_ids]),
            mm_token_type_ids=torch.tensor([types]),
            image_grid_thw=torch.tensor(grids) if grids else None,
            attention_mask=torch.ones(1, len(token_ids), dtype=torch.int64),
        )
        return position_ids[:, 0], int(deltas)


def _as_tuples(grids: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, grids.tolist()))
