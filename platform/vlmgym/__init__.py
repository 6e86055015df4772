"""vlmgym trains vision-language models with GRPO on visual games, on Ray RLlib."""

__version__ = "0.1.0"
