"""Decides which games exist: every file in games/ whose name does not start with an underscore is one."""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

from vlmgym_envs import games
from vlmgym_envs.core import Game
from vlmgym_envs.names import unknown_name


def make_game(id: str, level: str = "paper", **overrides: object) -> Game[Any, Any, Any]:
    """The game `id` at a named level, with some knobs overridden.

    >>> make_game("shisen_sho", "tiny").image_shape
    (48, 64, 3)
    >>> make_game("shisen_sho", "paper", rows=4, cols=4).level_name
    'paper[cols=4,rows=4]'

    Errors: ValueError for an unknown id, level or knob, and for a value outside its rule.
    """
    game_class = _game_class(id)
    if level not in game_class.levels:
        raise unknown_name(f"level of {id}", level, game_class.levels)
    named = game_class.levels[level]
    if not overrides:
        return game_class(named, level)
    changes = ",".join(f"{knob}={overrides[knob]}" for knob in sorted(overrides))
    return game_class(named.override(overrides), f"{level}[{changes}]")


def game_ids() -> tuple[str, ...]:
    """Every game, sorted. Finds the files without importing them."""
    return tuple(sorted(name for _, name, _ in pkgutil.iter_modules(games.__path__) if not name.startswith("_")))


def level_ids(id: str) -> tuple[str, ...]:
    """The named levels of a game, in the order the game lists them."""
    return tuple(_game_class(id).levels)


@cache
def _game_class(id: str) -> type[Game[Any, Any, Any]]:
    if id not in game_ids():
        raise unknown_name("game", id, game_ids())
    module = import_module(f"{games.__name__}.{id}")
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Game) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must hold exactly one Game, got {len(found)}")
    return found[0]
