"""How a learner that holds a shard of a model reads that shard alone from the model's files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from vlmgym_policies.processing import load_vlm


def load_sharded_vlm(path: str, dtype: torch.dtype, shard: Callable[[PreTrainedModel], None]) -> PreTrainedModel:
    """As `load_vlm`; of a parameter that `shard` makes a DTensor, only this process's part is read.

    shard: is given the model before its weights are read, when its parameters have no storage ("meta"). What it makes
    of their dtypes holds. Errors: ValueError as of `load_vlm`.
    """
    known = type(AutoConfig.from_pretrained(path))

    def distribute(cls: type, model: Any, *_: Any) -> Any:
        model.__class__ = model_class
        del model.config.distributed_config  # it would be saved with the model
        model.tie_weights()  # which transformers does after reading, too late for what shards to see it
        shard(model)
        return model

    model_class = AutoModelForImageTextToText._model_mapping[known]
    # transformers shards by rules of its own at this very place, between making a model and reading its weights.
    own = {"maybe_distribute_model": classmethod(distribute), "__module__": model_class.__module__}
    loader = type(model_class.__name__, (model_class,), own)
    model = load_vlm(path, dtype, loader, distributed_config=DistributedConfig())
    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            # A slice of a file that has the right dtype is a view of that file, mapped into memory.
            parameter._local_tensor = parameter._local_tensor.clone()
    return model
