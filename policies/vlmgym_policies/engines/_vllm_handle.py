"""Handles of tensors in GPU memory as plain data: numbers, bytes and lists, which cross processes without pickling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_CLASS, _SIZE, _STRIDE, _STORAGE, _DTYPE = 0, 1, 2, 4, 5
"""Places in the arguments of `torch.multiprocessing.reductions.rebuild_cuda_tensor`."""


def plain_handle(arguments: Sequence[Any]) -> list[Any]:
    """Of the arguments that `reduce_tensor` gives for a tensor on a GPU."""
    plain = list(arguments)
    plain[_CLASS] = plain[_STORAGE] = None
    plain[_SIZE], plain[_STRIDE] = list(plain[_SIZE]), list(plain[_STRIDE])
    plain[_DTYPE] = dtype_name(plain[_DTYPE])
    return plain


def rebuild_arguments(plain: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments for `rebuild_cuda_tensor` again."""
    arguments = list(plain)
    arguments[_CLASS], arguments[_STORAGE] = torch.Tensor, torch.storage.TypedStorage
    arguments[_SIZE], arguments[_STRIDE] = torch.Size(arguments[_SIZE]), tuple(arguments[_STRIDE])
    arguments[_DTYPE] = getattr(torch, arguments[_DTYPE])
    return tuple(arguments)


def merge_handles(ranks: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Per tensor the handles of all ranks, each of which knows its own GPU's: [[{"A": 1}], [{"B": 2}]] is
    [{"A": 1, "B": 2}].
    """
    merged = []
    for by_rank in zip(*ranks, strict=True):
        merged.append({gpu: handle for by_gpu in by_rank for gpu, handle in by_gpu.items()})
    return merged


def dtype_name(dtype: torch.dtype) -> str:
    """What it is called in `torch`: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
