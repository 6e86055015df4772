"""Keys and values of the rows that run: how rows come and go, and how a token is added without a copy of the rest.

All rows end in the same column; shorter ones are padded on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

_SPARE_COLUMNS = 64


def rows_can_join(cache: DynamicCache) -> bool:
    """Whether rows of another age may join those of `cache`.

    Only where every layer keeps every token: what a sliding window or a recurrent state has forgotten is not padding.
    """
    return all(type(layer) is DynamicLayer for layer in cache.layers)


class LeavingRows:
    """Rows of any architecture, which only leave. Row i begins as a copy of row `sources[i]` of `prefilled`.

    states: what the model reads and writes. width: columns, padding included.
    """

    def __init__(self, prefilled: DynamicCache, sources: torch.Tensor) -> None:
        self.states: Cache = prefilled
        self.width: int = prefilled.get_seq_length()
        prefilled.reorder_cache(sources)

    def keep(self, order: list[int]) -> None:
        """Row i becomes what row `order[i]` was; all others leave."""
        self.states.reorder_cache(torch.tensor(order))

    def add_column(self) -> None:
        """Makes room for the tokens that the model reads next."""
        self.width += 1

    def trim(self, width: int) -> None:
        """Nothing: columns that are padding in every row stay, for layers may have forgotten different ones."""


class JoiningRows:
    """Rows that also join, where `rows_can_join`. Otherwise as `LeavingRows`.

    The rows are a window of each layer's buffers, which have spare rows and columns. So a token is written in place, a
    row that leaves is replaced by one of the last, and all is copied once in `_SPARE_COLUMNS` tokens. Before a row lie
    its own padding and zeros, never what another row left: an attention mask does not hold back what is not finite.
    """

    def __init__(self, prefilled: DynamicCache, sources: torch.Tensor) -> None:
        self._window = _Window()
        self._layers = [_Layer(self._window, layer) for layer in prefilled.layers]
        self.states = Cache(layers=self._layers)
        self.join(prefilled, sources)

    @property
    def width(self) -> int:
        return self._window.end - self._window.first

    def join(self, prefilled: DynamicCache, sources: torch.Tensor) -> None:
        """Appends rows, one per element of `sources` (int64 [M]), rows of `prefilled`."""
        window, length = self._window, prefilled.get_seq_length()
        num_before, num_rows = window.num_rows, window.num_rows + len(sources)
        self._reserve(num_rows, max(self.width, length))
        first = min(window.first, window.end - length)
        for layer, added in zip(self._layers, prefilled.layers, strict=True):
            for buffer, states in zip(layer.buffers, (added.keys, added.values), strict=True):
                buffer[:num_before, :, first : window.first] = 0
                buffer[num_before:num_rows, :, first : window.end - length] = 0
                buffer[num_before:num_rows, :, window.end - length : window.end] = states[sources]
        window.num_rows, window.first = num_rows, first

    def keep(self, order: list[int]) -> None:
        """Row i becomes what row `order[i]` was; all others leave."""
        window = self._window
        window.num_rows = len(order)
        moves = [(place, row) for place, row in enumerate(order) if place != row]
        if moves:
            places, rows = torch.tensor(moves, device=self._layers[0].buffers[0].device).unbind(1)
            for layer in self._layers:
                for buffer in layer.buffers:
                    kept = buffer[:, :, window.first : window.end]
                    kept[places] = kept[rows]

    def add_column(self) -> None:
        """Makes room for the tokens that the model reads next."""
        self._reserve(self._window.num_rows, self.width)
        self._window.end += 1

    def trim(self, width: int) -> None:
        """Leaves out all but the last `width` columns; the others are padding in every row."""
        self._window.first = max(self._window.first, self._window.end - width)

    def _reserve(self, num_rows: int, width: int) -> None:
        """Larger buffers, or smaller ones where most rows have left, unless these have rows and columns enough.

        `width` columns end where the window ends, and at least one is free behind them.
        """
        window, (max_rows, _, max_columns, _) = self._window, self._layers[0].buffers[0].shape
        if num_rows <= max_rows and width <= window.end < max_columns:
            return
        if num_rows > max_rows or 2 * num_rows < max_rows:
            max_rows = num_rows + (num_rows // 4 if window.num_rows else 0)
        for layer in self._layers:  # one after the other, so that little is there twice
            layer.buffers = tuple(self._moved(old, max_rows, width) for old in layer.buffers)
        window.first, window.end = width - self.width, width

    def _moved(self, old: torch.Tensor, max_rows: int, width: int) -> torch.Tensor:
        window = self._window
        new = old.new_zeros(max_rows, old.shape[1], width + _SPARE_COLUMNS, old.shape[3])
        new[: window.num_rows, :, width - self.width : width] = old[: window.num_rows, :, window.first : window.end]
        return new


@dataclass
class _Window:
    """The part of the buffers in use: rows from 0, columns from `first` up to `end`, which is none of them."""

    num_rows: int = 0
    first: int = 0
    end: int = 0


class _Layer(CacheLayerMixin):
    """buffers: keys and values, [rows, heads, columns, size]."""

    is_sliding = False

    def __init__(self, window: _Window, like: DynamicLayer) -> None:
        super().__init__()
        self._window = window
        self.buffers = tuple(
            states.new_zeros(0, states.shape[1], 0, states.shape[3]) for states in (like.keys, like.values)
        )

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the buffers are there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the last column, [B, heads, 1, size] each; returns all of the window."""
        window = self._window
        keys, values = (buffer[: window.num_rows, :, window.first : window.end] for buffer in self.buffers)
        keys[:, :, -1:] = key_states
        values[:, :, -1:] = value_states
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before the one that is being written."""
        return self._window.end - self._window.first - 1

    def get_max_length(self) -> int:
        return -1
