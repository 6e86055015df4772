"""Decides how TRL's GRPOTrainer learns from the same groups: its own training step, less sampling and rewards."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from vlmgym.benchmarks.learner_stopwatch import Stopwatch
from vlmgym.benchmarks.learner_workload import (
    BETAS,
    CLIP,
    GRAD_CLIP,
    KL_COEFF,
    LR,
    MAX_TOKENS,
    WEIGHT_DECAY,
    Workload,
    deal,
    response_ids,
)
from vlmgym.grpo.batching import PROMPT_IDS
from vlmgym_policies.processing import load_vlm, quiet_transformers

INSTALL = "pip install trl==1.16.0"


def check_trl() -> None:
    """Errors: ImportError with what to install, where TRL is missing."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError(f"TRL cannot be imported ({error}): {INSTALL}") from error


def trl(workload: Workload, num_steps: int, stopwatch: Stopwatch) -> None:
    """`GRPOTrainer.train`, as many optimizer steps, where responses are given instead of sampled, and rewards too.

    Of a step, the clock counts pictures, the reference's scores, accumulation and the optimizer; it leaves out prompts
    into tokens, responses into text, and rewards. Micro-batches are as many rows as fit into the platform's budget.
    """
    from transformers import AutoProcessor, PrinterCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    deals = [deal(workload, step) for step in range(num_steps)]
    rows = [_row(group) for groups in deals for group in groups]

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            given = [ids.tolist() for ids in response_ids(deals[self.state.global_step])]
            assert len(given) == len(prompt_ids)
            return given, None

        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            with clock.excluded():
                return super()._generate(*args, **kwargs)

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            with clock.excluded():
                return super()._calculate_rewards(*args, **kwargs)

    clock = _clock(stopwatch)
    with tempfile.TemporaryDirectory(prefix="vlmgym-") as folder, quiet_transformers():
        trainer = Trainer(
            model=load_vlm(workload.model, getattr(torch, workload.dtype)),
            reward_funcs=lambda returns, **_: [of[i % workload.group_size] for i, of in enumerate(returns)],
            args=_arguments(workload, num_steps, longest_tokens(deals), folder),
            train_dataset=_dataset(rows),
            processing_class=AutoProcessor.from_pretrained(workload.model, padding_side="left"),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def rows_per_micro_batch(num_sequences: int, longest: int, max_tokens: int) -> int:
    """The most rows that share a forward pass: a divisor, for TRL cuts a batch into equal parts.

    >>> rows_per_micro_batch(256, 80, 10_240)
    128
    """
    fitting = [n for n in range(1, num_sequences + 1) if num_sequences % n == 0 and n * longest <= max_tokens]
    return max(fitting, default=1)


def longest_tokens(deals: list[list[MultiAgentEpisode]]) -> int:
    """Of prompt and response together, where each is padded to the longest of all."""
    groups = [group for groups in deals for group in groups]
    branches = [branch for group in groups for branch in group.agent_episodes.values()]
    prompts = [ids for branch in branches for ids in branch.extra_model_outputs[PROMPT_IDS]]
    return max(map(len, prompts)) + max(map(len, response_ids(groups)))


def _arguments(workload: Workload, num_steps: int, longest: int, folder: str) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    rows = rows_per_micro_batch(workload.num_sequences, longest, workload.config.micro_batch_tokens)
    return GRPOConfig(
        output_dir=folder,
        max_steps=num_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=workload.num_sequences // rows,
        num_generations=workload.group_size,
        max_completion_length=MAX_TOKENS,
        shuffle_dataset=False,
        loss_type="dapo",
        beta=KL_COEFF,
        epsilon=CLIP,
        temperature=1.0,
        learning_rate=LR,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=GRAD_CLIP,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=workload.device == "cpu",
        logging_steps=num_steps + 1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _row(group: MultiAgentEpisode) -> dict[str, Any]:
    """A prompt of the data set: TRL repeats it for each response."""
    branches = list(group.agent_episodes.values())
    prompt = branches[0].get_observations(0)
    (message,) = prompt.messages
    (image,) = prompt.images
    return {
        "prompt": [{"role": message.role, "content": message.text}],
        "image": Image.open(io.BytesIO(image)),
        "returns": [float(branch.get_return()) for branch in branches],
    }


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _clock(stopwatch: Stopwatch) -> Any:
    """A callback that measures each optimizer step of a trainer."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        excluded_s = excluded_cpu_s = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.excluded_s = self.excluded_cpu_s = 0.0
            stopwatch.start()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            stopwatch.stop(excluded_s=self.excluded_s, excluded_cpu_s=self.excluded_cpu_s)

        @contextmanager
        def excluded(self) -> Iterator[None]:
            started_s, started_cpu_s = time.monotonic(), time.process_time()
            yield
            self.excluded_s += time.monotonic() - started_s
            self.excluded_cpu_s += time.process_time() - started_cpu_s

    return Clock()
