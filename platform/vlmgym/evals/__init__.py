"""Evaluation: policies answer the same held-out states, and what they did is reported with intervals."""
