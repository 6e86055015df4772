"""A number that stands for a set of named tensors, to tell whether it arrived as it was sent."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch


def weights_checksum(weights: Mapping[str, torch.Tensor]) -> int:
    """Of all names and bytes, whatever the order of the mapping."""
    total = 0
    for name in sorted(weights):
        words = weights[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        total = zlib.crc32(words.numpy().data, zlib.crc32(name.encode(), total))
    return total
