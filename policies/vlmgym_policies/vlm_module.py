"""The RLModule that learners train: a Hugging Face VLM beside its frozen reference, saved as a model directory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from transformers import PreTrainedModel

from vlmgym_policies.pictures import seeing_each_once
from vlmgym_policies.processing import VLMProcessor, load_vlm, quiet_transformers
from vlmgym_policies.training_inputs import TrainingInputs

HF_DIRECTORY = "hf"
LOGPROBS = "logprobs"
ENTROPY = "entropy"
REFERENCE_LOGPROBS = "reference_logprobs"


class VLMModule(TorchRLModule):
    """Scores sequences under the policy and the reference.

    model_config: `path` (model directory or hub name, the start of both networks), `dtype`, `temperature` (of the
    sampler whose distribution is scored), `reference` (whether a frozen copy is kept), `train_vision`.
    Env runners hold no weights: there (`inference_only`) the module is empty, engines generate.
    """

    model: PreTrainedModel | None
    reference: PreTrainedModel | None

    def setup(self) -> None:
        self.model = self.reference = None
        self.processor: VLMProcessor | None = None
        self.training_inputs: TrainingInputs | None = None
        if self.inference_only:
            return
        config = self.model_config
        dtype = getattr(torch, config["dtype"])
        self.processor = VLMProcessor(config["path"])
        self.model = load_vlm(config["path"], dtype)
        self.training_inputs = TrainingInputs(self.processor, self.model, vision_tower(self.model))
        if not config["train_vision"]:
            vision_tower(self.model).requires_grad_(False)
        if config["reference"]:
            self.reference = load_vlm(config["path"], dtype).eval().requires_grad_(False)
        self._banned = torch.tensor(self.processor.banned_token_ids, dtype=torch.int64)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """batch: `training_inputs` and `num_scored`, how many last positions are responses.

        Returns float32 [B, num_scored] log-probabilities (and entropy of the policy) of the last `num_scored` tokens.
        """
        num_scored = batch["num_scored"]
        inputs = {name: value for name, value in batch.items() if name != "num_scored"}
        assert self.model is not None
        logprobs, entropy = self._score(self.model, inputs, num_scored)
        outputs = {LOGPROBS: logprobs, ENTROPY: entropy}
        if self.reference is not None:
            with torch.no_grad():
                outputs[REFERENCE_LOGPROBS] = self._score(self.reference, inputs, num_scored)[0]
        return outputs

    def _score(
        self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_scored: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with seeing_each_once(vision_tower(model), inputs) as seen:
            logits = model(**seen, use_cache=False, logits_to_keep=num_scored + 1).logits[:, :-1].float()
        logits = logits / self.model_config["temperature"]
        logits = logits.index_fill(-1, self._banned.to(logits.device), float("-inf"))
        all_logprobs = torch.log_softmax(logits, dim=-1)
        targets = inputs["input_ids"][:, -num_scored:, None]
        entropy = -(all_logprobs.exp() * all_logprobs.masked_fill(all_logprobs.isneginf(), 0.0)).sum(-1)
        return all_logprobs.gather(-1, targets).squeeze(-1), entropy

    def weights(self) -> dict[str, torch.Tensor]:
        """A detached CPU copy of every policy tensor under the model's own names; never aliases live parameters."""
        assert self.model is not None
        return {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}

    def get_state(
        self, components: Any = None, *, not_components: Any = None, inference_only: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Policy weights; nothing where the module is empty or for env runners, which never get weights."""
        return {} if self.model is None or inference_only else dict(self.weights())

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes what `get_state` gave; the stub that stands beside a saved model directory is left to it."""
        if self.model is not None and state and HF_DIRECTORY not in state:
            self.model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})

    def save_to_path(
        self, path: Any = None, *, state: Any = None, filesystem: Any = None, use_msgpack: bool = False
    ) -> str:
        """Writes the RLlib component, its weights as a Hugging Face directory `hf/` inside."""
        weights = state or self.get_state()
        saved: str = super().save_to_path(
            path, state={HF_DIRECTORY: HF_DIRECTORY}, filesystem=filesystem, use_msgpack=use_msgpack
        )
        if self.model is not None and self.processor is not None:
            with tempfile.TemporaryDirectory() as local, quiet_transformers():
                self.model.save_pretrained(local, state_dict=dict(weights))
                self.processor.save_pretrained(local)
                target = filesystem or pyarrow.fs.LocalFileSystem()
                target.create_dir(f"{saved}/{HF_DIRECTORY}", recursive=True)
                pyarrow.fs.copy_files(local, f"{saved}/{HF_DIRECTORY}", destination_filesystem=target)
        return saved

    def restore_from_path(self, path: Any, *, component: Any = None, filesystem: Any = None, **kwargs: Any) -> None:
        """Reads `hf/` back through `from_pretrained`, which undoes the renaming that `save_pretrained` does."""
        super().restore_from_path(path, component=component, filesystem=filesystem, **kwargs)
        if self.model is None:
            return
        source = filesystem or pyarrow.fs.LocalFileSystem()
        with tempfile.TemporaryDirectory() as local:
            pyarrow.fs.copy_files(f"{Path(path).as_posix()}/{HF_DIRECTORY}", local, source_filesystem=source)
            self.model.load_state_dict(load_vlm(local, self.model.dtype).state_dict())


def vision_tower(model: PreTrainedModel) -> torch.nn.Module:
    """The part of a VLM that sees.

    Raises:
        ValueError: the architecture keeps it under a name not known here.
    """
    for name in ("visual", "vision_tower", "vision_model"):
        tower = getattr(model.base_model, name, None)
        if isinstance(tower, torch.nn.Module):
            return tower
    raise ValueError(f"{type(model).__name__} has no part named visual, vision_tower or vision_model")
