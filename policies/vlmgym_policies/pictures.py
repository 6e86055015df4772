"""Decides how often a model looks at a picture: once per batch, however many sequences show it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

IMAGE_SOURCES = "image_sources"
GRIDS = "image_grid_thw"


def can_see_each_once(tower: torch.nn.Module) -> bool:
    """Whether a vision tower takes its pictures as one row of patches, with a grid each, as those of Qwen-VL do."""
    return "grid_thw" in inspect.signature(tower.forward).parameters


@contextmanager
def seeing_each_once(tower: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Model inputs for a forward pass inside, in which `tower` sees each distinct picture once.

    inputs: as `VLMProcessor.collate` makes them with `distinct_images`; others are given back as they are. The model is
    told of all pictures; around its tower, two hooks take the repeated ones out and put their features in again. The
    gradient of a picture's features is then the sum over the sequences that show it, as it would be anyway.
    """
    if IMAGE_SOURCES not in inputs:
        yield dict(inputs)
        return
    sources, distinct = inputs[IMAGE_SOURCES], inputs[GRIDS]
    grids = distinct[sources]
    rows = _feature_rows(sources, distinct.prod(-1) // getattr(tower, "spatial_merge_size", 1) ** 2)

    def show_distinct(_: Any, args: Any, arguments: dict[str, Any]) -> Any:
        return args, {**arguments, "grid_thw": distinct}

    def repeat(_: Any, args: Any, output: Any) -> Any:
        output.pooler_output = output.pooler_output.index_select(0, rows)
        if getattr(output, "deepstack_features", None):
            output.deepstack_features = [features.index_select(0, rows) for features in output.deepstack_features]
        return output

    hooks = [tower.register_forward_pre_hook(show_distinct, with_kwargs=True), tower.register_forward_hook(repeat)]
    try:
        yield {**{name: value for name, value in inputs.items() if name != IMAGE_SOURCES}, GRIDS: grids}
    finally:
        for hook in hooks:
            hook.remove()


def _feature_rows(sources: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """For each picture of `sources` the rows of its features, which stand one picture after the other.

    sources: int64 [N], places among the distinct pictures; sizes: int64 [D], rows of each of those.

    >>> _feature_rows(torch.tensor([1, 0, 1]), torch.tensor([1, 2]))
    tensor([1, 2, 0, 1, 2])
    """
    starts = sizes.cumsum(0) - sizes
    lengths = sizes[sources]
    ends = lengths.cumsum(0)
    within = torch.arange(int(ends[-1]), device=sizes.device) - torch.repeat_interleave(ends - lengths, lengths)
    return torch.repeat_interleave(starts[sources], lengths) + within
