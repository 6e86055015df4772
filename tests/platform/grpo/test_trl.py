"""Variants that TRL has, too: its own trainers and ours on the same numbers."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from vlmgym.grpo.advantages import AdvantageRule, decision_advantages
from vlmgym.grpo.loss import Clip, Responses, divergence, masked_sum, policy_loss
from vlmgym.grpo.sequences import response_weight

MAX_TOKENS = 7
LENGTHS = torch.tensor([7, 3, 5, 1])
MASK = torch.arange(MAX_TOKENS) < LENGTHS[:, None]
WORDS = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "b"])}


@pytest.fixture(scope="module")
def make_trainer(tmp_path_factory):
    """A trainer of TRL's with a model of next to no size."""

    def make(trainer=GRPOTrainer, config=GRPOConfig, reward=lambda completions, **_: [0.0] * len(completions), **args):
        words = Tokenizer(WordLevel(WORDS, unk_token="<unk>"))
        words.pre_tokenizer = Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
        )
        shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), eos_token_id=1, pad_token_id=0, **shape))
        common = {"use_cpu": True, "report_to": "none", "bf16": False, "gradient_checkpointing": False}
        sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": MAX_TOKENS}
        return trainer(
            model=model,
            reward_funcs=reward,
            args=config(output_dir=str(tmp_path_factory.mktemp("trl")), **{**common, **sizes, **args}),
            train_dataset=Dataset.from_dict({"prompt": ["a", "b"] * 4}),
            processing_class=tokenizer,
        )

    return make


@pytest.fixture(scope="module")
def tensors():
    """Log-probabilities far enough apart that every clip is met, from both sides, under advantages of both signs."""
    generator = torch.Generator().manual_seed(0)
    policy, old, reference = (-3.0 * torch.rand(4, MAX_TOKENS, generator=generator) for _ in range(3))
    return policy, old, reference, torch.tensor([1.5, -0.5, -1.0, 0.25])


SAME = [
    ({"loss_type": "grpo"}, {"average_over": "responses"}),
    ({"loss_type": "dapo", "epsilon_high": 0.28}, {"average_over": "tokens", "high": 0.28}),
    (
        {"loss_type": "bnpo", "beta": 0.3, "use_bias_correction_kl": False},
        {"average_over": "tokens", "kl_coeff": 0.3},
    ),
    ({"loss_type": "dr_grpo"}, {"average_over": "max_tokens"}),
    ({"loss_type": "grpo", "delta": 1.5}, {"average_over": "responses", "dual": 1.5}),
    (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
        {"average_over": "responses", "loss": "gspo", "low": 0.03, "high": 0.04},
    ),
    # TRL names the upper bound itself, and has no lower one.
    ({"loss_type": "cispo", "epsilon_high": 1.6}, {"average_over": "tokens", "loss": "cispo", "low": 1.0, "high": 0.6}),
    ({"loss_type": "dapo", "entropy_coef": 0.1}, {"average_over": "tokens", "entropy_coeff": 0.1}),
]


@pytest.mark.parametrize(("theirs", "ours"), SAME, ids=[" ".join(map(str, theirs.values())) for theirs, _ in SAME])
def test_losses_and_gradients_are_those_of_trl(make_trainer, tensors, theirs, ours):
    policy, old, reference, advantages = tensors
    policy = policy.clone().requires_grad_()
    entropy = -policy.exp() * policy
    trainer = make_trainer(**{name: value for name, value in theirs.items() if name != "beta"})
    trainer.beta = theirs.get("beta", 0.0)  # given to the constructor it would load a reference
    trainer.current_gradient_accumulation_steps = 1
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (policy, entropy, None)
    ids = torch.ones(4, MAX_TOKENS, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": MASK.int(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": MASK.sum(),
    }
    expected = trainer._compute_loss(trainer.model, inputs)
    (expected_gradient,) = torch.autograd.grad(expected, policy, retain_graph=True)

    loss = our_loss(policy, old, reference, advantages, entropy, **ours)
    (gradient,) = torch.autograd.grad(loss, policy)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient.abs().max() > 0.01


def our_loss(
    policy, old, reference, advantages, entropy, *, average_over, loss="clip", low=0.2, high=0.2, dual=None, **coeffs
):
    """The sums of `GRPOLearner.compute_loss_for_module`, divided by their denominator."""
    weighed = [response_weight(int(length), average_over, MAX_TOKENS) for length in LENGTHS]
    weights = torch.tensor([[weight] for weight, _ in weighed]) * MASK
    responses = Responses(torch.zeros_like(MASK, dtype=torch.int64), MASK)
    spread = advantages[:, None].expand_as(policy)
    total = masked_sum(policy_loss(loss, policy, old, spread, Clip(low, high, dual), responses).policy, weights)
    total = total + coeffs.get("kl_coeff", 0.0) * masked_sum(divergence("k3", policy, reference), weights)
    total = total - coeffs.get("entropy_coeff", 0.0) * masked_sum(entropy, weights)
    return total / sum(denominator for _, denominator in weighed)


REWARDS = [1.0, 0.0, 4.0, 2.0, -1.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("trainer", "config", "args", "name"),
    [
        (GRPOTrainer, GRPOConfig, {"scale_rewards": "group"}, "grpo"),
        (GRPOTrainer, GRPOConfig, {"scale_rewards": "none"}, "dr_grpo"),
        (RLOOTrainer, RLOOConfig, {"normalize_advantages": False, "beta": 0.0}, "rloo"),
    ],
    ids=["grpo", "dr_grpo", "rloo"],
)
def test_advantages_are_those_of_trl(make_trainer, trainer, config, args, name):
    """Two groups of four; TRL adds 1e-4 to the standard deviation, we 1e-6."""
    theirs = make_trainer(trainer, config, lambda completions, **_: REWARDS, **args)
    expected = theirs._generate_and_score_completions([{"prompt": "a"}] * 4 + [{"prompt": "b"}] * 4)["advantages"]
    groups = np.array(REWARDS, dtype=np.float32).reshape(2, 4, 1)
    states = [["start"]] * 4
    ours = [decision_advantages(list(rewards), states, AdvantageRule(name)) for rewards in groups]
    np.testing.assert_allclose(np.concatenate([*ours[0], *ours[1]]), expected.numpy(), rtol=2e-4)
