"""Games of several turns, from a real engine to the learner: what is scored is what was sampled, token by token."""

import asyncio
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlmgym.grpo.batching import SEQUENCES, GroupAdvantages, SequencesFromEpisodes
from vlmgym.grpo.config import POLICY_ID, GRPOConfig
from vlmgym.grpo.env_thread import EnvThread
from vlmgym.grpo.group import GroupPlayer
from vlmgym_envs.rllib import GameGroupEnv
from vlmgym_policies.engines.hf import HFEngine
from vlmgym_policies.history import History
from vlmgym_policies.processing import load_vlm

NUM_TURNS = 3
NUM_BYTES = 256


@pytest.fixture(scope="module")
def wordy(make_model, tmp_path_factory):
    """A model that prefers words to single bytes, which seldom make text: some responses are spelled as sampled."""
    path = tmp_path_factory.mktemp("wordy") / "model"
    shutil.copytree(make_model(0), path)
    model = load_vlm(str(path), torch.float32)
    with torch.no_grad():
        rows = model.get_output_embeddings().weight
        rows[:NUM_BYTES] = 0
        rows[NUM_BYTES:] *= 6
    model.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def engine(wordy):
    engine = HFEngine(wordy)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def make_config(wordy):
    def make(turns, pictures="all", **training):
        env_config = {"game": "shisen_sho", "level": "tiny", "group_size": 3, "num_turns": NUM_TURNS}
        return (
            GRPOConfig()
            .environment(env_config=env_config)
            .vlm(wordy)
            .training(**{"grad_clip": None, **training})
            .sampling(max_tokens=6, temperature=3.0)
            .prompting(history=History(turns, pictures))
            .debugging(seed=5, log_level="ERROR")
        )

    return make


@pytest.fixture(scope="module")
def learner(make_config):
    config = make_config("all")
    return config.build_learner(env=GameGroupEnv(config.env_config))


def play(config, engine):
    """One group, every branch with a return of its own."""
    handle = SimpleNamespace(generate=SimpleNamespace(remote=engine.generate))
    env = EnvThread(GameGroupEnv(config.env_config))
    episode = asyncio.run(GroupPlayer(config, env, handle, 0, True, lambda *_: None).play())
    for number, branch in enumerate(episode.agent_episodes.values()):
        branch.rewards[:] = [float(number == turn) for turn in range(len(branch))]
    return episode


def sequences(config, episode):
    """What the learner connectors make of the group."""
    batch = GroupAdvantages(config.advantage_rule)(rl_module=None, batch={}, episodes=[episode])
    make = SequencesFromEpisodes(config.average_over, config.max_tokens)
    batch = make(rl_module=None, batch=batch, episodes=[episode])
    return [record for records in batch[SEQUENCES].values() for record in records]


def worst_mismatch(module, records):
    """Largest distance between the log-probabilities of the sampler and of the learner."""
    worst = 0.0
    for record in records:
        inputs = module.processor.collate([record.token_ids], [record.images], padding="right")
        with torch.no_grad():
            got = module.forward_train({**inputs, "num_scored": len(record.response_ids)})["logprobs"][0].numpy()
        worst = max(worst, np.abs(got - record.old_logprobs)[record.weights > 0].max())
    return worst


@pytest.mark.parametrize(
    ("turns", "pictures", "num_images", "num_sequences"),
    [
        (0, "all", [1, 1, 1], 3),
        ("all", "all", [1, 2, 3], 1),
        (1, "all", [1, 2, 2], 2),  # the third prompt has lost its first turn
        ("all", 0, [1, 1, 1], 3),
    ],
    ids=["none", "all", "window", "no pictures"],
)
def test_what_the_learner_scores_is_what_was_sampled(
    make_config, engine, learner, turns, pictures, num_images, num_sequences
):
    """At best a branch has `num_sequences`; a response that its tokenizer would spell otherwise keeps turns apart."""
    config = make_config(turns, pictures)
    episode = play(config, engine)
    for branch in episode.agent_episodes.values():
        prompts = branch.get_observations(slice(0, NUM_TURNS))
        assert [len(prompt.images) for prompt in prompts] == num_images
        remembered = [message.text for message in prompts[-1].messages if message.role == "assistant"]
        assert remembered == {0: [], 1: branch.get_actions()[1:2], "all": branch.get_actions()[:2]}[turns]
    records = sequences(config, episode)
    assert sum(record.turns.max() + 1 for record in records) == 3 * NUM_TURNS
    assert 3 * num_sequences <= len(records)
    assert (len(records) < 3 * NUM_TURNS) == (num_sequences < NUM_TURNS)
    assert all((record.old_logprobs[record.weights > 0] < 0).all() for record in records)
    assert worst_mismatch(learner.module[POLICY_ID].unwrapped(), records) < 1e-4


@pytest.mark.parametrize(
    "variant",
    [
        {"kl_coeff": 0.1},
        {"loss": "gspo", "average_over": "responses", "kl_coeff": 0.1, "kl": "k1", "kl_in": "reward"},
        {"loss": "cispo", "average_over": "max_tokens", "entropy_coeff": 0.1},
    ],
    ids=["token mean", "gspo", "cispo"],
)
def test_merging_turns_changes_neither_loss_nor_gradient(make_config, engine, learner, monkeypatch, variant):
    config = make_config("all", credit="turn", gamma=0.5, advantage="dr_grpo", **variant)
    episode = play(config, engine)
    learner.config = config
    merged = sequences(config, episode)
    monkeypatch.setattr("vlmgym.grpo.batching.merge_turns", list)
    apart = sequences(config, episode)
    assert len(merged) < len(apart) == 3 * NUM_TURNS
    assert sum(record.num_tokens for record in merged) < sum(record.num_tokens for record in apart)
    results = [gradient(learner, records) for records in (merged, apart)]
    metrics = learner.metrics.peek(POLICY_ID)
    assert np.isfinite([metrics[name] for name in ("kl", "entropy", "ratio", "logprob_mismatch")]).all()
    assert metrics["logprob_mismatch_max"] < 1e-4
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-6)
    assert results[0][0].abs().max() > 1e-4
    torch.testing.assert_close(*(grad for grad, _ in results), rtol=1e-3, atol=1e-6)


def gradient(learner, records):
    for parameter in learner.module[POLICY_ID].parameters():
        parameter.grad = None
    loss = learner._accumulate(POLICY_ID, records)
    grads = [p.grad.flatten() for p in learner.module[POLICY_ID].parameters() if p.grad is not None]
    return torch.cat(grads), float(loss)
