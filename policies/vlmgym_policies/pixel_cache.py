"""How many pictures a processor keeps as tensors: as many of the latest as fit into so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

Pixels = dict[str, torch.Tensor]


class PixelCache:
    """Calls `process` for pictures, PNG files, that it does not hold; may be called by several threads.

    max_bytes: of all tensors that are kept. A picture is 13 MB for a Qwen-VL at 640 x 840 px.
    """

    def __init__(self, process: Callable[[bytes], Pixels], max_bytes: int) -> None:
        self._process = process
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Pixels] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0

    def __call__(self, image: bytes) -> Pixels:
        with self._lock:
            if image in self._kept:
                self._kept.move_to_end(image)
                return self._kept[image]
        pixels = self._process(image)
        with self._lock:
            if image not in self._kept:
                self._kept[image] = pixels
                self.num_bytes += _size(pixels)
            while self.num_bytes > self._max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self.num_bytes -= _size(oldest)
        return pixels


def _size(pixels: Pixels) -> int:
    return sum(tensor.nbytes for tensor in pixels.values())
