"""The RLModule that learners train: a Hugging Face VLM beside its frozen reference, saved as a model directory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from vlmgym_policies.lora import Lora, adapters_switched_off, load_adapters, merged, save_adapters
from vlmgym_policies.processing import VLMProcessor, load_vlm, quiet_transformers
from vlmgym_policies.training_inputs import TrainingInputs
from vlmgym_policies.vlm_network import VLMNetwork, load_network, vision_tower

HF_DIRECTORY = "hf"
ADAPTER_DIRECTORY = "adapter"
LOGPROBS = "logprobs"
ENTROPY = "entropy"
REFERENCE_LOGPROBS = "reference_logprobs"
Shard = Callable[[VLMNetwork], None]
"""Makes a network that has no weights yet, in place, this process's shard of it."""


class VLMModule(TorchRLModule):
    """Scores sequences under the policy and the reference.

    model_config: `path` (model directory or hub name, the start of both networks), `dtype` (of products, as of
    `VLMNetwork`), `temperature` (of the sampler whose distribution is scored), `reference` (whether there is one: a
    frozen copy, or with adapters the policy without them), `train_vision`, `lora` (settings of `Lora`, or None), `seed`
    (of fresh adapters), `activation_checkpointing`, `sharded` (whether weights wait for `load`).
    Env runners hold no weights: there (`inference_only`) the module is empty, engines generate.
    """

    policy: VLMNetwork | None
    reference: VLMNetwork | None

    def setup(self) -> None:
        self.policy = self.reference = None
        self.processor: VLMProcessor | None = None
        self.training_inputs: TrainingInputs | None = None
        if self.inference_only:
            return
        self.processor = VLMProcessor(self.model_config["path"])
        self.lora = Lora(**self.model_config["lora"]) if self.model_config["lora"] is not None else None
        if not self.model_config["sharded"]:
            self.load(None)

    def load(self, shard: Shard | None) -> None:
        """Reads the networks' weights; of those that `shard` makes shards, this process's alone."""
        assert self.processor is not None, "an empty module loads nothing"
        config = self.model_config
        shared = {
            "dtype": getattr(torch, config["dtype"]),
            "banned_token_ids": self.processor.banned_token_ids,
            "temperature": config["temperature"],
            "shard": shard,
        }
        self.policy = load_network(
            config["path"],
            **shared,
            train_vision=config["train_vision"],
            lora=self.lora,
            seed=config["seed"],
            activation_checkpointing=config["activation_checkpointing"],
        )
        self.training_inputs = TrainingInputs(self.processor, self.policy.model, vision_tower(self.policy.model))
        if config["reference"] and self.lora is None:
            self.reference = load_network(config["path"], **shared, trained=False)

    def networks(self) -> list[VLMNetwork]:
        return [network for network in (self.policy, self.reference) if network is not None]

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        """batch: `training_inputs` and `num_scored`, how many last positions are responses.

        Returns float32 [B, num_scored] log-probabilities (and entropy of the policy) of the last `num_scored` tokens.
        """
        num_scored = batch["num_scored"]
        inputs = {name: value for name, value in batch.items() if name != "num_scored"}
        assert self.policy is not None
        outputs = {}
        if self.model_config["reference"]:
            outputs[REFERENCE_LOGPROBS] = self._score_reference(inputs, num_scored)
        outputs[LOGPROBS], outputs[ENTROPY] = self.policy(inputs, num_scored)
        return outputs

    @torch.no_grad()
    def _score_reference(self, inputs: Mapping[str, torch.Tensor], num_scored: int) -> torch.Tensor:
        """Before the policy's turn: a sharded network keeps what it gathered from then until its backward pass."""
        logprobs: torch.Tensor
        if self.reference is not None:
            logprobs, _ = self.reference(inputs, num_scored)
            return logprobs
        assert self.policy is not None
        with adapters_switched_off(self.policy.model):
            logprobs, _ = self.policy(inputs, num_scored)
        return logprobs

    def weights(self) -> dict[str, torch.Tensor]:
        """A CPU copy of every policy tensor under the model's own names, adapters merged; never aliases live ones.

        Where weights are sharded, all learners have to call this together.
        """
        assert self.policy is not None
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.policy.weights()}

    def get_state(
        self, components: Any = None, *, not_components: Any = None, inference_only: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Policy weights, adapters apart; nothing where the module is empty or for env runners, which get none.

        Errors: RuntimeError where weights are sharded: RLlib asks one learner, which must not wait for the others.
        """
        if self.policy is None or inference_only:
            return {}
        if self.policy.is_sharded:
            raise RuntimeError(
                "no learner has the whole of sharded weights: all of them save and restore them together"
            )
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.policy.state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes what `get_state` gave; the stub that stands beside a saved model directory is left to it."""
        if self.policy is not None and state and HF_DIRECTORY not in state:
            self.policy.load_state({name: torch.as_tensor(value) for name, value in state.items()})

    def save_to_path(
        self, path: Any = None, *, state: Any = None, filesystem: Any = None, use_msgpack: bool = False
    ) -> str:
        """Writes the RLlib component; inside, its weights as a Hugging Face directory `hf/`, and adapters `adapter/`.

        `hf/` has the adapters merged into it, and needs no peft. state: is empty in the end, so that no more than one
        copy of the whole model is needed.
        """
        weights = state or self.get_state()
        saved: str = super().save_to_path(
            path, state={HF_DIRECTORY: HF_DIRECTORY}, filesystem=filesystem, use_msgpack=use_msgpack
        )
        if self.policy is not None:
            target = filesystem or pyarrow.fs.LocalFileSystem()
            with tempfile.TemporaryDirectory() as local:
                self._export(Path(local), weights)
                target.create_dir(saved, recursive=True)
                pyarrow.fs.copy_files(local, saved, destination_filesystem=target)
        return saved

    def _export(self, path: Path, weights: dict[str, Any]) -> None:
        assert self.policy is not None and self.processor is not None
        model = self.policy.model
        if self.lora is not None:
            save_adapters(path / ADAPTER_DIRECTORY, self.lora, self.model_config["path"], model, weights.items())
        one_by_one = ((name, torch.as_tensor(weights.pop(name))) for name in list(weights))
        with quiet_transformers():
            model.save_pretrained(path / HF_DIRECTORY, state_dict=dict(merged(model, one_by_one)))
            self.processor.save_pretrained(path / HF_DIRECTORY)

    def restore_from_path(self, path: Any, *, component: Any = None, filesystem: Any = None, **kwargs: Any) -> None:
        """Reads `adapter/`, or `hf/` through `from_pretrained`, which undoes the renaming of `save_pretrained`."""
        super().restore_from_path(path, component=component, filesystem=filesystem, **kwargs)
        if self.policy is None:
            return
        source = filesystem or pyarrow.fs.LocalFileSystem()
        folder = HF_DIRECTORY if self.lora is None else ADAPTER_DIRECTORY
        with tempfile.TemporaryDirectory() as local:
            pyarrow.fs.copy_files(f"{Path(path).as_posix()}/{folder}", local, source_filesystem=source)
            if self.lora is None:
                self.policy.load_state(load_vlm(local, torch.float32).state_dict())
            else:
                self.policy.load_state(load_adapters(Path(local), self.policy.model))
