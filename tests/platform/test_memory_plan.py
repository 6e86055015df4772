"""The plan of a learner's memory, beside the bytes of tensors that live in updates of tiny models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from architectures import make_qwen2_5_vl
from live_bytes import LiveBytes

from vlmgym.memory_plan import Batch, LearnerSetup, learner_bytes
from vlmgym.model_source import model_shape
from vlmgym_policies.processing import VLMProcessor
from vlmgym_policies.prompting import make_prompt
from vlmgym_policies.tiny import TinySize, make_tiny_vlm
from vlmgym_policies.training_inputs import TrainingInputs
from vlmgym_policies.vlm_network import load_network, vision_tower

NUM_SCORED = 40


class Measured(NamedTuple):
    peak_bytes: int
    batch: Batch


def update(path: Path, game: Any, num_sequences: int, **options: Any) -> Measured:
    """Two training steps of two micro-batches each, reference and KL included, as a learner takes them."""
    processor = VLMProcessor(str(path))
    shared = {"dtype": torch.float32, "banned_token_ids": processor.banned_token_ids, "temperature": 1.0}
    policy = load_network(str(path), **shared, **options)
    reference = load_network(str(path), **shared, trained=False)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    prompts = [make_prompt(game.prompt, game.render(game.mid_game(seed))) for seed in range(num_sequences)]
    response = np.full(NUM_SCORED, 20, dtype=np.int32)
    token_ids = [np.concatenate([processor.encode(prompt), response]) for prompt in prompts]
    to_inputs = TrainingInputs(processor, policy.model, vision_tower(policy.model))
    inputs = to_inputs(token_ids, [prompt.images for prompt in prompts])
    held = [*policy.parameters(), *policy.buffers(), *reference.parameters(), *reference.buffers()]
    with LiveBytes([*held, *inputs.values()]) as live:
        for _ in range(2):
            for _ in range(2):
                accumulate(policy, reference, inputs)
            optimizer.step()
            optimizer.zero_grad()
    batch = Batch(inputs["input_ids"].numel(), num_sequences * NUM_SCORED, len(inputs["pixel_values"]))
    return Measured(live.peak, batch)


def accumulate(policy: Any, reference: Any, inputs: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        known, _ = reference(inputs, NUM_SCORED)
    logprobs, _ = policy(inputs, NUM_SCORED)
    (torch.exp(known - logprobs) - (known - logprobs) - 1).sum().backward()


def tiny(words: int = 0, **size: Any) -> Callable[[Path, Any], Path]:
    """A tiny Qwen3-VL; words: of its vocabulary, beside those of the game."""

    def make(path: Path, game: Any) -> Path:
        vocabulary = "".join(f"word {number}\n" for number in range(words))
        texts: dict[str, Any] = {"prompts": [game.prompt, vocabulary], "responses": ["<answer>(0, 1) (2, 3)</answer>"]}
        return make_tiny_vlm(path, **texts, seed=0, size=TinySize(**size))

    return make


def qwen2_5_vl(path: Path, game: Any) -> Path:
    return make_qwen2_5_vl(path, [game.prompt], num_hidden_layers=4)


CASES: dict[str, tuple[str, int, Callable[[Path, Any], Path], dict[str, Any]]] = {
    "weights": (
        "moments",
        2,
        tiny(hidden_size=384, num_layers=4, num_heads=6, head_dim=64, intermediate_size=1024),
        {},
    ),
    "activations": ("activations", 24, tiny(hidden_size=128, num_layers=4, intermediate_size=256), {}),
    "logits": (
        "logits",
        16,
        tiny(words=12_000, hidden_size=32, num_layers=1, num_heads=2, head_dim=16, intermediate_size=64),
        {},
    ),
    "another architecture": ("activations", 16, qwen2_5_vl, {}),
    "checkpointed": ("activations", 16, qwen2_5_vl, {"activation_checkpointing": True}),
}
"""What takes most, how many sequences, which model, and how it is trained."""


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_within_15_percent_of_what_is_measured(case: str, game: Any, tmp_path: Path) -> None:
    largest, num_sequences, make, options = CASES[case]
    path = make(tmp_path / "model", game)
    measured = update(path, game, num_sequences, **options)
    shape = model_shape(str(path))
    assert shape is not None
    plan = learner_bytes(shape, LearnerSetup("float32", **options), measured.batch)
    assert max(plan, key=lambda name: plan[name]) == largest
    assert sum(plan.values()) == pytest.approx(measured.peak_bytes, rel=0.15), plan
