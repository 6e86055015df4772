"""Visual games for vision-language models: pure rules, exact pictures and texts, environments around them."""

from vlmgym_envs.core import Game, InvalidAnswer, Level, Step
from vlmgym_envs.gym import register_envs
from vlmgym_envs.registry import game_ids, level_ids, make_game

__all__ = ["Game", "InvalidAnswer", "Level", "Step", "game_ids", "level_ids", "make_game", "register_envs"]

register_envs()
