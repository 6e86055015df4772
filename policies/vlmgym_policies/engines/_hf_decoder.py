"""The batch that runs: rows join it between two tokens and leave it as they end, whatever the others do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from vlmgym_policies.engine import Message, Sampling
from vlmgym_policies.engines._hf_cache import JoiningRows, LeavingRows, rows_can_join
from vlmgym_policies.engines._hf_sampling import draw
from vlmgym_policies.positions import Positions
from vlmgym_policies.processing import FittedPrompt, VLMProcessor

# Attention that adds what it is given to its scores; other kinds, such as flash attention, want [B, width].
_TAKES_4D_MASK = frozenset({"eager", "sdpa"})


@dataclass(eq=False, slots=True)
class Row:
    """A prompt and what was sampled for it so far.

    uniforms: float64 [max_tokens], what decides each token. token_ids, logprobs: one entry per token.
    """

    fitted: FittedPrompt
    sampling: Sampling
    uniforms: NDArray[np.float64]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.fitted.token_ids) + len(self.token_ids)


class Prefilled(NamedTuple):
    """Rows that are ready to join.

    sources: int64 [M], the row of `cache` and of what follows that each of the M rows begins with. logits: [U, V] for
    the first token. deltas: int64 [U], how far the position of the next token is ahead of the number of tokens.
    """

    rows: Sequence[Row]
    sources: torch.Tensor
    cache: DynamicCache
    logits: torch.Tensor
    deltas: torch.Tensor


class Decoder:
    """Decodes many rows with one model, one token of each per step. For one thread at a time.

    rows: those that run. After an error in `join` or `step` they are lost, and `clear` makes the decoder usable again.
    """

    def __init__(self, model: PreTrainedModel, processor: VLMProcessor, device: torch.device) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._processor = processor
        self._device = device
        self._text_config = model.config.get_text_config(decoder=True)
        self._eos = frozenset(processor.eos_token_ids)
        self._banned = torch.tensor(processor.banned_token_ids, dtype=torch.int64, device=device)
        self._positions = Positions(model)
        self._mixes_ages = rows_can_join(DynamicCache(config=self._text_config))
        self._batch: _Batch | None = None

    @property
    def can_join(self) -> bool:
        """Whether rows may join now."""
        return self._mixes_ages or not self.rows

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row]) -> Prefilled:
        """Reads the prompts in one batch, equal ones once. Changes nothing here, whatever it raises."""
        numbers: dict[tuple[Message, ...], int] = {}
        sources = [numbers.setdefault(row.fitted.prompt.messages, len(numbers)) for row in rows]
        prompts = [rows[sources.index(number)].fitted for number in range(len(numbers))]
        inputs = self._processor.collate([p.token_ids for p in prompts], [p.prompt.images for p in prompts], "left")
        inputs["position_ids"], deltas = self._positions(inputs, [len(p.prompt.images) for p in prompts])
        inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        cache = DynamicCache(config=self._text_config)
        logits = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        return Prefilled(rows, torch.tensor(sources, device=self._device), cache, logits, deltas.to(self._device))

    @torch.inference_mode()
    def join(self, prefilled: Prefilled) -> None:
        """Takes the rows into the batch. Only where `can_join`."""
        rows, sources = prefilled.rows, prefilled.sources
        added = _PerRow(
            logits=prefilled.logits[sources],
            lengths=torch.tensor([row.length for row in rows], device=self._device),
            deltas=prefilled.deltas[sources],
            temperatures=torch.tensor([row.sampling.temperature for row in rows], dtype=torch.float32).to(self._device),
        )
        if self._batch is None:
            cache = (JoiningRows if self._mixes_ages else LeavingRows)(prefilled.cache, sources)
            self._batch = _Batch(cache, added)
        else:
            assert isinstance(self._batch.cache, JoiningRows), "rows cannot join others in this architecture"
            self._batch.cache.join(prefilled.cache, sources)
            self._batch.per_row = _PerRow(*map(torch.cat, zip(self._batch.per_row, added, strict=True)))
            self._batch.is_trimmed = False
        self.rows += rows

    @torch.inference_mode()
    def step(self, unwanted: Collection[Row] = ()) -> list[Row]:
        """Adds a token to each row; returns the rows that ended with it. They and the unwanted ones leave."""
        assert self._batch is not None, "no rows run"
        token_ids = self._draw(self._batch.per_row)
        ended = [row for row in self.rows if row.token_ids[-1] in self._eos or len(row.token_ids) == len(row.uniforms)]
        if ended or unwanted:
            order = _without_gaps(self.rows, {*ended, *unwanted})
            self.rows = [self.rows[i] for i in order]
            if not order:
                self._batch = None
                return ended
            index = torch.tensor(order, device=self._device)
            token_ids = token_ids[index]
            self._batch.cache.keep(order)
            self._batch.per_row = _PerRow(*(values[index] for values in self._batch.per_row))
            self._batch.is_trimmed = False
        self._read(self._batch, token_ids)
        return ended

    def clear(self) -> None:
        """All rows leave."""
        self.rows = []
        self._batch = None

    def _draw(self, per_row: _PerRow) -> torch.Tensor:
        """The next token of each row, int64 [B], which the rows have got."""
        uniforms = torch.tensor([row.uniforms[len(row.token_ids)] for row in self.rows], dtype=torch.float64)
        drawn = draw(per_row.logits, per_row.temperatures, uniforms.to(self._device), self._banned)
        token_ids, logprobs = torch.stack([drawn.token_ids.double(), drawn.logprobs.double()]).tolist()
        for row, token_id, logprob in zip(self.rows, token_ids, logprobs, strict=True):
            row.token_ids.append(int(token_id))
            row.logprobs.append(logprob)
        return drawn.token_ids

    def _read(self, batch: _Batch, token_ids: torch.Tensor) -> None:
        """The model reads a token of each row, int64 [B], and tells the logits of the one that follows."""
        _, lengths, deltas, temperatures = batch.per_row
        batch.cache.add_column()
        if not batch.is_trimmed:
            batch.cache.trim(max(row.length for row in self.rows))
            batch.is_padded = min(row.length for row in self.rows) < batch.cache.width
            batch.is_trimmed = True
        position_ids = (lengths + deltas)[:, None]
        output = self._model(
            input_ids=token_ids[:, None],
            attention_mask=self._attention_mask(batch, lengths + 1),
            position_ids=position_ids.expand(3, -1, -1) if self._positions.is_mrope else position_ids,
            past_key_values=batch.cache.states,
            use_cache=True,
            logits_to_keep=1,
        )
        batch.per_row = _PerRow(output.logits[:, -1], lengths + 1, deltas, temperatures)

    def _attention_mask(self, batch: _Batch, lengths: torch.Tensor) -> torch.Tensor | None:
        """Hides the padding before the last `lengths` columns of each row.

        Where it can be, in the form that attention adds to its scores, which saves the model to make it in each layer.
        """
        if not batch.is_padded:
            return None
        columns_to_end = torch.arange(batch.cache.width, 0, -1, device=self._device)
        is_hidden = columns_to_end > lengths[:, None]
        if isinstance(batch.cache, LeavingRows) or self._text_config._attn_implementation not in _TAKES_4D_MASK:
            return (~is_hidden).long()
        scores = torch.zeros_like(is_hidden, dtype=self._model.dtype)
        return scores.masked_fill_(is_hidden, torch.finfo(scores.dtype).min)[:, None, None]


class _PerRow(NamedTuple):
    """logits: [B, V] for the next token. lengths: int64 [B], tokens read. deltas: as in `Prefilled`.
    temperatures: float32 [B].
    """

    logits: torch.Tensor
    lengths: torch.Tensor
    deltas: torch.Tensor
    temperatures: torch.Tensor


@dataclass
class _Batch:
    """is_trimmed: whether the cache has no column that is padding in every row. is_padded: whether it has padding."""

    cache: JoiningRows | LeavingRows
    per_row: _PerRow
    is_trimmed: bool = False
    is_padded: bool = True


def _without_gaps(rows: Sequence[Row], leaving: Collection[Row]) -> list[int]:
    """Indices of the rows that stay: each at its own place, but for the last, which fill the places of the others."""
    staying = [row not in leaving for row in rows]
    num_staying = sum(staying)
    last = iter([i for i in range(num_staying, len(rows)) if staying[i]])
    return [i if staying[i] else next(last) for i in range(num_staying)]
