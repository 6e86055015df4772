"""Decides which knobs a job has: each stands here once, with its default, its rule and one line on what it does.

Defaults are those of G1 (arXiv 2505.13426) wherever the paper or its code states one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlmgym_envs.core import Game
from vlmgym_envs.registry import make_game
from vlmgym_envs.splits import Start
from vlmgym_policies.engine import InFlight
from vlmgym_policies.scoring import RewardWeights

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], Field(strict=False)]
Dtype = Literal["float32", "bfloat16"]
Placement = Literal["disaggregated", "colocated"]


class Section(BaseModel):
    """A mapping in a job file. Frozen; values of another type and unknown keys are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class GameSettings(Section):
    """What is played, and where an episode starts."""

    id: str = Field(description="a game of vlmgym_envs")
    level: str = Field("paper", description="a named level of that game")
    overrides: dict[str, Any] = Field({}, description="knobs of the level to change")
    start: Start = Field("mid_game", description="where an episode starts")
    num_turns: int = Field(1, ge=1, description="decisions per episode")
    held_out: float = Field(0.1, gt=0, lt=1, description="fraction of all states kept for evaluation")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        self.make()
        return self

    def make(self) -> Game[Any, Any, Any]:
        """The game at its level. Errors: ValueError for an unknown name or a value outside its rule."""
        make_game(self.id, self.level).level.override(self.overrides)
        return make_game(self.id, self.level, **self.overrides)


class RewardSettings(Section):
    """What a move is worth, and the weights of the reward's parts; left out, they are the paper's for the game."""

    rule: Literal["progress", "legal", "raw"] = Field(
        "progress",
        description="+1 for a move that the game rewards, or for any legal one, else -1; or the game's reward",
    )
    game: float = Field(ge=0, description="weight of what the move is worth")
    perception: float = Field(ge=0, description="weight of 1 for a perception block that is exactly the board")
    format: float = Field(ge=0, description="weight of 1 for a response with all three tag pairs")

    @property
    def weights(self) -> RewardWeights:
        return RewardWeights(self.game, self.perception, self.format)


class ModelSettings(Section):
    """The vision-language model that is trained: one of `path` and `tiny`."""

    path: str | None = Field(None, description="a model directory, or a name on the Hugging Face hub")
    tiny: bool = Field(False, description="make a tiny model, without a download, in the run directory")
    dtype: Dtype = Field("float32", description="of the weights, on learners and engines")
    train_vision: bool = Field(True, description="whether the vision tower is trained")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if (self.path is not None) == self.tiny:
            raise ValueError("one of path and tiny is required, and only one")
        if self.path is not None and not _is_hub_name(self.path):
            if not Path(self.path).is_dir():
                raise ValueError(f"path {self.path!r} does not exist")
            if not (Path(self.path) / "config.json").is_file():
                raise ValueError(f"path {self.path!r} is not a model directory: it has no config.json")
        return self


class SamplingSettings(Section):
    """How responses are drawn in training."""

    temperature: float = Field(1.0, gt=0, description="of the softmax that tokens are drawn from")
    max_tokens: int = Field(8192, ge=1, description="longest response, in tokens")


class EngineSettings(Section):
    """The inference engines that sample responses, each an actor."""

    type: Literal["hf", "vllm"] = Field("hf", description="which engine")
    replicas: int = Field(1, ge=1, description="how many engines")
    placement: Placement = Field(
        "disaggregated", description="on resources of their own, or colocated: on the learners' GPUs, in turn with them"
    )
    tensor_parallel: int = Field(1, ge=1, description="vllm: workers that share one engine's model, a GPU each")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per engine")
    num_gpus: float = Field(0.0, ge=0, description="GPUs reserved per engine; colocated engines reserve none")
    max_batch_size: int = Field(256, ge=1, description="most responses generated at once per engine")
    max_model_len: int | None = Field(
        None, ge=2, description="most tokens of a prompt and its response; by default what the model has positions for"
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="vllm: share of each GPU's memory for weights and KV cache"
    )
    in_flight: InFlight = Field(
        "finish", description="what becomes of responses under way when weights come: finish, or redo with the new"
    )
    timeout_s: float = Field(600.0, gt=0, description="a response that takes longer costs its group")
    restart_timeout_s: float = Field(1800.0, gt=0, description="how long a run waits for an engine when none is left")


class EnvRunnerSettings(Section):
    """The actors that play episodes."""

    count: int = Field(4, ge=1, description="how many")
    envs_per_runner: int = Field(32, ge=1, description="groups in flight per runner")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per runner")
    step_timeout_s: float = Field(60.0, gt=0, description="a step that takes longer costs its group")
    reset_timeout_s: float = Field(60.0, gt=0, description="a reset that takes longer costs its group")


class LearnerSettings(Section):
    """The actors that update the model."""

    count: int = Field(0, ge=0, description="how many; 0 learns in the driver's process")
    num_cpus: float = Field(1.0, ge=0, description="CPUs reserved per learner")
    num_gpus: float = Field(0.0, ge=0, description="GPUs reserved per learner")
    micro_batch_tokens: int = Field(16_384, ge=1, description="most tokens, padding included, in one forward pass")


class ColdStartSettings(Section):
    """Supervised warm-up on demonstrations with exact perception, before GRPO."""

    updates: int = Field(ge=1, description="optimizer steps")
    batch_size: int = Field(32, ge=1, description="demonstrations per update")
    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    warmup_updates: int = Field(0, ge=0, description="updates over which the learning rate rises from 0")
    decay_fraction: float = Field(0.0, ge=0, le=1, description="last part of the updates, in which it falls to 0")
    teacher: dict[str, Annotated[float, Field(ge=0)]] = Field(
        min_length=1, description="who demonstrates: relative weight per teacher of the game"
    )
    answer_weight: float = Field(1.0, gt=0, description="loss weight of think and answer tokens; perception has 1")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    adam_betas: Betas = Field((0.9, 0.999), description="of AdamW")
    eval_every: int = Field(200, ge=1, description="updates between evaluations")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_updates + self.decay_fraction * self.updates > self.updates:
            raise ValueError("warmup_updates and the decay must fit into updates")
        if sum(self.teacher.values()) <= 0:
            raise ValueError("teacher needs a weight above 0")
        return self


class GRPOSettings(Section):
    """Group-relative policy optimisation."""

    iterations: int = Field(400, ge=0, description="rounds of sampling and one update")
    groups: int = Field(128, ge=1, description="start states per iteration")
    group_size: int = Field(5, ge=2, description="responses per start state")
    lr: float = Field(1e-6, gt=0, description="learning rate of AdamW")
    warmup_iterations: int = Field(0, ge=0, description="iterations over which the learning rate rises from 0")
    kl_coeff: float = Field(0.01, ge=0, description="weight of the k3 divergence from the start model; 0 keeps no copy")
    max_weights_lag: int = Field(0, ge=0, description="updates that sampling may lag behind; 0 samples, then updates")
    stale_groups: Literal["wait", "drop"] = Field("wait", description="what happens to groups before they lag too far")
    importance_cap: float | None = Field(
        None, ge=1, description="cap of truncated importance sampling; none takes the ratio to the sampler"
    )
    max_uninformative_groups: int = Field(0, ge=0, description="groups of equal rewards replaced per iteration")
    clip_low: float = Field(0.2, gt=0, lt=1, description="the ratio is clipped below 1 - clip_low")
    clip_high: float = Field(0.2, gt=0, description="the ratio is clipped above 1 + clip_high")
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    adam_betas: Betas = Field((0.9, 0.999), description="of AdamW")
    checkpoint_every: int = Field(10, ge=1, description="iterations between checkpoints")
    eval_every: int = Field(20, ge=1, description="iterations between evaluations")
    keep_checkpoints: int = Field(3, ge=1, description="checkpoints kept, the newest ones")


class EvaluationSettings(Section):
    """How policies are measured on held-out states."""

    num_states: int = Field(512, ge=1, description="held-out states of an evaluation")


class TrackingSettings(Section):
    """Where results go besides the run directory."""

    wandb: Literal["auto", "online", "offline", "off"] = Field(
        "auto", description="auto is online where WANDB_API_KEY is set, else offline"
    )
    project: str = Field("vlmgym", min_length=1, description="wandb project")
    rollouts_every: int = Field(10, ge=1, description="iterations between saved rollouts")
    num_rollouts: int = Field(4, ge=0, description="rollouts saved each time")


def _is_hub_name(path: str) -> bool:
    """Whether `path` can only be OWNER/NAME on a hub: no such directory here, nor one named as its owner."""
    is_pair = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path) is not None
    return is_pair and not Path(path).exists() and not Path(path).parent.is_dir()
