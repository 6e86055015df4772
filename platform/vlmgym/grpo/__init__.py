"""GRPO on RLlib. Read: algorithm, runner, group, advantages, batching, loss, learner, config."""
