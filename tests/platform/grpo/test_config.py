import pytest

from vlmgym.grpo.config import GRPOConfig


def config():
    return GRPOConfig().environment(env_config={"game": "shisen_sho", "level": "tiny"}).vlm("anywhere")


def test_defaults_are_those_of_g1():
    """arXiv 2505.13426 and its training script."""
    made = config()
    assert made.lr == 1e-6 and made.weight_decay == 0.01 and made.grad_clip == 1.0
    assert made.clip_low == made.clip_high == 0.2 and made.kl_coeff == 0.01
    assert (made.advantage, made.credit, made.loss, made.average_over) == ("grpo", "episode", "clip", "tokens")
    assert (made.kl, made.kl_in, made.gamma, made.step_weight, made.entropy_coeff) == ("k3", "loss", 1.0, 0.0, 0.0)
    assert made.dual_clip is None and made.importance_cap is None
    assert made.num_groups_per_train_batch == 128 and made.temperature == 1.0 and made.max_tokens == 8192


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.training(gamma=0.9), "gamma must be 1 with credit episode and step_weight 0, got 0.9"),
        (lambda c: c.training(gamma=1.5, credit="turn"), "gamma must be above 0 and at most 1, got 1.5"),
        (lambda c: c.training(advantage="gae"), "advantage must be one of grpo, dr_grpo, rloo, .*, got 'gae'"),
        (lambda c: c.training(loss="ppo"), "loss must be one of clip, gspo, cispo, got 'ppo'"),
        (lambda c: c.training(clip_low=0.0), "clip_low must be above 0 and at most 1, got 0.0"),
        (lambda c: c.training(dual_clip=1.0), "dual_clip must be above 1, and none with loss cispo, got 1.0"),
        (lambda c: c.training(dual_clip=3.0, loss="cispo"), "dual_clip must be above 1, and none with loss cispo"),
        (lambda c: c.training(kl="k1"), "kl must be k2 or k3 in the loss, got k1"),
        (lambda c: c.training(entropy_coeff=-1.0), "entropy_coeff must be at least 0, got -1.0"),
        (lambda c: c.training(advantage="reinforce_pp", step_weight=1.0), "step_weight must be 0 with advantage"),
        (lambda c: c.prompting(observation="words"), "observation must be one of picture, text, oracle, got 'words'"),
        (
            lambda c: c.prompting(observation="text").learners(num_learners=2),
            "train_vision must be False with observation text and several learners",
        ),
        (lambda c: c.training(num_epochs=2), "num_epochs must stay 1, got 2"),
        (lambda c: c.training(minibatch_size=8), "minibatch_size must stay None, got 8"),
        (lambda c: c.training(train_batch_size_per_learner=64), "train_batch_size_per_learner must stay"),
        (lambda c: c.training(train_batch_size=64), "train_batch_size must stay 32, got 64"),
        (lambda c: c.env_runners(batch_mode="truncate_episodes"), "batch_mode must stay 'complete_episodes'"),
        (lambda c: c.env_runners(rollout_fragment_length=10), "rollout_fragment_length must stay"),
        (lambda c: c.training(num_groups_per_train_batch=5).learners(num_learners=2), "must divide by num_learners"),
        (lambda c: c.sampling(temperature=0.0), "temperature must be above 0 in training, got 0.0"),
        (lambda c: c.training(max_weights_lag=-1), "max_weights_lag must be at least 0, got -1"),
        (lambda c: c.training(stale_groups="keep"), "stale_groups must be one of wait, drop, got 'keep'"),
        (lambda c: c.training(importance_cap=0.5), "importance_cap must be at least 1, got 0.5"),
        (lambda c: c.timeouts(env_step_timeout_s=0.0), "env_step_timeout_s must be above 0, got 0.0"),
        (lambda c: c.rewards(grammar=1.0), "reward weights are game, perception, format, got grammar"),
        (lambda c: c.multi_agent(policies={"a", "b"}), "policies must be"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(config()).validate()


def test_what_rllib_users_set_is_taken():
    made = (
        config()
        .env_runners(num_env_runners=3, num_envs_per_env_runner=7)
        .learners(num_learners=2)
        .evaluation(evaluation_interval=4, evaluation_num_env_runners=1)
        .fault_tolerance(restart_failed_env_runners=False)
        .training(grad_clip=0.5, lr=[[0, 0.0], [100, 1e-5]])
    )
    made.validate()
    assert made.num_env_runners == 3 and made.num_learners == 2 and not made.restart_failed_env_runners
    assert made.copy().num_groups_per_train_batch == 128
