"""A number that stands for a set of named tensors, to tell whether it arrived as it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

import torch

_ROW_WORDS = 2**15
_ROW_BYTES = 8 * _ROW_WORDS
_BLOCK_BYTES = 256 * _ROW_BYTES
_MULTIPLIERS = (-0x61C8864680B583EB, -0x4B47D0C542B3F0D3)


def weights_checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """64 bits of all names, dtypes, shapes and bytes; the order of the mapping and the device do not matter."""
    checksum = WeightsChecksum()
    for name, tensor in weights.items():
        checksum.add(name, tensor)
    return checksum.value()


class WeightsChecksum:
    """`weights_checksum` of tensors that come one by one.

    A tensor's bytes are read on its device, as words of 64 bits. Two sums are made of them, each word times a weight of
    its place, for a single sum would miss one in 2^15 swaps of two bfloat16 numbers. `add` does not wait for a GPU.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[str, torch.Tensor]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        tensor = tensor.detach()
        self._sums.append((f"{name} {tensor.dtype} {tuple(tensor.shape)} ", _sums(tensor)))

    def value(self) -> int:
        total = 0
        for header, sums in self._sums:
            content = sums.cpu().numpy().astype("<i8").tobytes()
            total += int.from_bytes(blake2b(header.encode() + content, digest_size=8).digest(), "little")
        return total % 2**64


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """int64 [2], on the tensor's device."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8)
    num_whole = len(content) // _ROW_BYTES * _ROW_BYTES
    whole, rest = content[:num_whole], content[num_whole:]
    sums = _rows_sums(torch.nn.functional.pad(rest, (0, -len(rest) % 8))[None], 0)
    for start in range(0, len(whole), _BLOCK_BYTES):
        rows = whole[start : start + _BLOCK_BYTES].view(-1, _ROW_BYTES)
        sums = sums + _rows_sums(rows, 1 + start // _ROW_BYTES)
    return sums


def _rows_sums(rows: torch.Tensor, first: int) -> torch.Tensor:
    """uint8 [R, C], the rows from number `first` on -> int64 [2]. C: a multiple of 8, at most _ROW_BYTES."""
    if rows.storage_offset() % 8:
        rows = rows.clone()
    words = rows.view(torch.int64)
    weights = _word_weights(rows.device)[:, : words.shape[1]]
    sums = torch.stack([_times(words, weight) for weight in weights])
    return (sums * _mixed(torch.arange(first, first + len(rows), device=rows.device))).sum(1)


def _times(words: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """int64 [R, W] times int64 [W] -> [R]; CUDA has no such product of integers."""
    return words.mv(weight) if words.device.type == "cpu" else (words * weight).sum(1)


@lru_cache
def _word_weights(device: torch.device) -> torch.Tensor:
    """int64 [2, _ROW_WORDS]."""
    return _mixed(torch.arange(_ROW_WORDS)).to(device)


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """int64 [N] -> int64 [2, N], odd and as if at random (SplitMix64's finish, its shifts arithmetic)."""
    mixed = torch.stack([(numbers + 1) * multiplier for multiplier in _MULTIPLIERS])
    mixed = (mixed ^ (mixed >> 30)) * -0x40A7B892E31B1A47
    mixed = (mixed ^ (mixed >> 27)) * -0x6B2FB644ECCEEE15
    return (mixed ^ (mixed >> 31)) | 1
