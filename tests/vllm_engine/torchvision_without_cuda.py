"""Lets a torchvision that was built for CUDA be imported beside a torch without it, on machines for development.

Package indexes pair the CPU build of vLLM with torchvision's CUDA build, whose compiled operators then do not load, and
importing torchvision fails on the one operator it describes itself. vLLM imports it, in several processes, but calls
none of these operators for the models of the tests. `./run test-vllm` copies this file into its environment, and a
`.pth` file imports it at every start there.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; declares the missing operators when torchvision is looked for the first time."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


_kept: list[object] = []
"""An operator lives as long as its library."""

sys.meta_path.insert(0, _BeforeTorchvision())
