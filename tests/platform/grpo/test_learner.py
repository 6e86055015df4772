"""What a learner makes of sequences, without Ray's actors."""

import numpy as np
import pytest
import torch
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from vlmgym.grpo.batching import SEQUENCES, object_array
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.sequences import TrainSequence, response_weight
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.prompting import make_prompt

LENGTHS = ((5,), (1,), (2, 1, 3))
"""Tokens of the responses of each sequence; what stands between two of them is one token."""

VARIANTS = [
    {},
    {"average_over": "responses"},
    {"average_over": "max_tokens", "advantage": "dr_grpo"},
    {"loss": "gspo", "average_over": "responses"},
    {"loss": "cispo", "clip_low": 1.0},
    {"dual_clip": 1.5, "clip_high": 0.28},
    {"advantage": "reinforce_pp", "kl": "k1", "kl_in": "reward"},
    {"kl": "k2", "entropy_coeff": 0.1},
    {"importance_cap": 2.0},
]


@pytest.fixture(scope="module")
def learner(make_model):
    """One learner, moved from its reference, so that ratios and divergences are not those of the first update."""
    config = make_config(make_model)
    learner = config.build_learner(env=GameGroupEnv(config.env_config))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.module[POLICY_ID].unwrapped().policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return learner


@pytest.fixture(scope="module")
def configure(learner, make_model):
    """Gives the learner other settings."""

    def use(**training):
        learner.config = make_config(make_model, **training)
        learner.config.validate()
        return learner.config

    return use


@pytest.fixture(scope="module")
def module(learner):
    return learner.module[POLICY_ID].unwrapped()


def make_config(make_model, **training):
    return (
        GRPOConfig()
        .environment(env_config={"game": "shisen_sho", "level": "tiny", "group_size": 3})
        .vlm(str(make_model(0)))
        .training(**{"kl_coeff": 0.5, "micro_batch_tokens": 10_000, "grad_clip": None, **training})
        .sampling(max_tokens=12)
        .debugging(log_level="ERROR")
    )


def sequences(processor, game, config):
    """Sequences of one turn or several, with pictures, of unequal lengths and advantages."""
    rng = np.random.default_rng(0)
    made = []
    for number, lengths in enumerate(LENGTHS):
        prompt = make_prompt(game.prompt, game.render(game.mid_game(number)))
        parts = []
        for turn, length in enumerate(lengths):
            weight, denominator = response_weight(length, config.average_over, config.max_tokens)
            between = np.zeros(int(turn > 0))
            parts.append(
                {
                    "old_logprobs": [*between, *rng.uniform(-8, -2, length)],
                    "weights": [*between, *np.full(length, weight)],
                    "advantages": [*between, *np.full(length, rng.normal())],
                    "turns": np.full(length + len(between), turn),
                    "denominator": denominator,
                }
            )
        columns = {name: np.concatenate([part[name] for part in parts]) for name in list(parts[0])[:4]}
        dtypes = {"turns": np.int32}
        made.append(
            TrainSequence(
                prompt_ids=processor.encode(prompt),
                response_ids=rng.integers(10, 60, len(columns["turns"])).astype(np.int32),
                **{name: values.astype(dtypes.get(name, np.float32)) for name, values in columns.items()},
                denominator=sum(part["denominator"] for part in parts),
                images=prompt.images,
            )
        )
    return made


def gradient(learner, records):
    for parameter in learner.module[POLICY_ID].parameters():
        parameter.grad = None
    loss = learner._accumulate(POLICY_ID, records)
    grads = [p.grad.flatten() for p in learner.module[POLICY_ID].parameters() if p.grad is not None]
    return torch.cat(grads), float(loss)


@pytest.fixture(scope="module")
def in_one(learner, configure, module, game):
    """Gradient and loss of each variant from one micro-batch."""
    return [gradient(learner, sequences(module.processor, game, configure(**variant))) for variant in VARIANTS]


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=lambda number: " ".join(map(str, VARIANTS[number])))
def test_micro_batches_do_not_change_the_gradient(learner, configure, module, game, in_one, number):
    whole, loss = in_one[number]
    config = configure(micro_batch_tokens=1, **VARIANTS[number])
    in_parts, same_loss = gradient(learner, sequences(module.processor, game, config))
    assert whole.abs().max() > 1e-4 and np.isfinite(loss)
    torch.testing.assert_close(in_parts, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
    assert same_loss == pytest.approx(loss, rel=1e-4)


def test_every_variant_has_a_gradient_of_its_own(in_one):
    for number, (one, _) in enumerate(in_one):
        for other, _ in in_one[:number]:
            assert not torch.allclose(one, other, rtol=1e-2), number


def test_what_counts_for_nothing_leaves_no_trace(learner, configure, module, game):
    """As a sequence whose picture the sampler saw otherwise, and one that a learner repeats to keep up with others."""
    config = configure()
    records = sequences(module.processor, game, config)
    idle = records[1]._replace(weights=np.zeros_like(records[1].weights), denominator=0.0)
    results = []
    for batch in (records[:1], [records[0], idle]):
        results.append((*gradient(learner, batch), learner.metrics.peek((POLICY_ID, "logprob_mismatch_max"))))
    (alone, loss, mismatch), (beside, same_loss, same_mismatch) = results
    torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-6)
    assert same_loss == pytest.approx(loss, rel=1e-4) and same_mismatch == pytest.approx(mismatch, rel=1e-4)


def test_a_batch_of_which_nothing_counts_is_skipped_and_counted(learner, configure, module, game):
    """As one whose pictures the learner sees otherwise than the sampler did, all of them."""
    records = sequences(module.processor, game, configure())
    records = [record._replace(image_digests=(b"another",)) for record in records]
    before = module.weights()
    batch = MultiAgentBatch({POLICY_ID: SampleBatch({SEQUENCES: object_array(records)})}, env_steps=len(records))
    result = learner.update(batch=batch, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 0})
    assert result[POLICY_ID]["num_image_mismatches"].peek() == len(records)
    assert result["num_skipped_updates"].peek() == 1
    assert np.isnan(result[POLICY_ID]["loss"].peek()) and np.isnan(result[POLICY_ID]["entropy"].peek())
    assert all(torch.equal(value, before[name]) for name, value in module.weights().items())


def test_the_entropy_bonus_raises_the_entropy(learner, configure, module, game):
    """Without advantages and divergence the loss is minus the mean entropy, which a step down the loss makes larger."""
    config = configure(kl_coeff=0.0, entropy_coeff=1.0)
    records = [r._replace(advantages=np.zeros_like(r.advantages)) for r in sequences(module.processor, game, config)]
    start = module.weights()
    _, before = gradient(learner, records)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter -= 0.01 * parameter.grad
    _, after = gradient(learner, records)
    module.set_state(start)
    assert after < before < 0
    assert before >= -np.log(module.processor.vocab_size)


def test_a_divergence_in_the_reward_takes_from_what_tokens_earn(learner, configure, module, game):
    """Without advantages, the gradient is that of the mean of kl_coeff x (sum of k1 from token t on) x log pi_t."""
    config = configure(kl="k1", kl_in="reward")
    record = sequences(module.processor, game, config)[0]
    outputs = logprobs(module, record)
    record = record._replace(
        advantages=np.zeros_like(record.advantages),
        old_logprobs=outputs["logprobs"].detach().numpy()[0],  # so that ratios are 1
    )
    got, _ = gradient(learner, [record])
    kl_to_go = (outputs["logprobs"] - outputs["reference_logprobs"]).detach().flip(1).cumsum(1).flip(1)
    loss = config.kl_coeff * (kl_to_go * outputs["logprobs"]).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.policy.parameters()))])
    assert kl_to_go.abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def logprobs(module, record):
    inputs = module.processor.collate([record.token_ids], [record.images], padding="right")
    return module.forward_train({**inputs, "num_scored": len(record.response_ids)})
